"""Run in the model server's environment: the openai client, through the gateway. Prints JSON."""

import json
import sys

import openai

base, model = sys.argv[1:3]
client = openai.OpenAI(base_url=base + "/v1", api_key="not-a-secret", max_retries=0, timeout=60)
out = {"models": [m.id for m in client.models.list()]}
for prompt in ("pii", "plain", "utf8"):
    messages = [{"role": "user", "content": prompt}]
    reply = client.chat.completions.create(
        model=model, messages=messages, max_tokens=48, temperature=0
    )
    out[prompt] = reply.choices[0].message.content
    chunks = list(
        client.chat.completions.create(
            model=model, messages=messages, max_tokens=48, temperature=0, stream=True
        )
    )
    out[prompt + "-stream"] = [c.choices[0].delta.content or "" for c in chunks if c.choices]
    out[prompt + "-finish"] = [c.choices[0].finish_reason for c in chunks if c.choices][-1]
try:
    client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "my key is sk-" + "aB3dE5fG7hJ9kL1mN2pQ4rS6" * 2}],
    )
    out["denied"] = None
except openai.PermissionDeniedError as error:
    out["denied"] = error.body
json.dump(out, sys.stdout)
