"""Run in the model server's environment: the openai client, through the gateway. Prints JSON.

Usage: client.py MODE BASE_URL MODEL, with MODE one of `all`, `denied`, `fields`, `hold`.
"""

import json
import sys

import openai

mode, base, model = sys.argv[1:4]
client = openai.OpenAI(base_url=base + "/v1", api_key="not-a-secret", max_retries=0, timeout=60)
KEY = "my key is sk-" + "aB3dE5fG7hJ9kL1mN2pQ4rS6" * 2
# Text without end: the end token is forbidden.
ENDLESS = {"max_tokens": 480, "temperature": 0, "logit_bias": {"1": -100}}
out = {}


def user(prompt):
    return [{"role": "user", "content": prompt}]


def refused(call, *args, **kwargs):
    """What the client is told instead of a reply."""
    try:
        call(*args, **kwargs)
    except openai.APIStatusError as error:
        return {"status": error.status_code, "body": error.body}
    return None


def read(stream, field):
    """The pieces of a stream, and the error that it ended with, if any."""
    pieces = []
    try:
        for chunk in stream:
            pieces += [field(choice) or "" for choice in chunk.choices]
    except openai.APIError as error:
        return {"pieces": pieces, "error": type(error).__name__, "body": error.body}
    except Exception as error:  # noqa: BLE001 - what the HTTP library raises where a connection breaks
        return {"pieces": pieces, "error": type(error).__name__, "body": None}
    return {"pieces": pieces, "error": None, "body": None}


def chat_text(choice):
    return choice.delta.content


def completion_text(choice):
    return choice.text


if mode == "all":
    out["models"] = [m.id for m in client.models.list()]
    for prompt in ("pii", "plain", "utf8"):
        asked = {"model": model, "max_tokens": 48, "temperature": 0}
        reply = client.chat.completions.create(messages=user(prompt), **asked)
        out[f"chat {prompt}"] = reply.choices[0].message.content
        stream = client.chat.completions.create(messages=user(prompt), stream=True, **asked)
        out[f"chat {prompt} streamed"] = read(stream, chat_text)
        reply = client.completions.create(prompt=prompt, logprobs=2, **asked)
        out[f"completion {prompt}"] = reply.choices[0].text
        out[f"completion {prompt} logprobs"] = reply.choices[0].logprobs is not None
        stream = client.completions.create(prompt=prompt, stream=True, **asked)
        out[f"completion {prompt} streamed"] = read(stream, completion_text)
    echo = client.completions.create(prompt="pii", echo=True, model=model, max_tokens=48)
    out["completion echoed"] = echo.choices[0].text
    vectors = client.embeddings.create(
        model=model, input=["plain", "utf8"], encoding_format="float"
    )
    out["embeddings"] = [len(item.embedding) for item in vectors.data]
    for route, call, asked in (
        ("chat", client.chat.completions.create, {"messages": user(KEY)}),
        ("completion", client.completions.create, {"prompt": KEY}),
        ("embeddings", client.embeddings.create, {"input": ["fine", KEY]}),
        ("responses", client.responses.create, {"input": KEY}),
    ):
        out[f"refused {route}"] = refused(call, model=model, **asked)
    # Guarded, and not served by this model server: its own answer comes through.
    out["not served"] = refused(client.responses.create, model=model, input="hello")
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    out["picture"] = refused(client.chat.completions.create, model=model, messages=user([picture]))
elif mode == "fields":
    # Every field that the client's own types have, for a comparison with the gateway's tables.
    from openai.types import chat, completion_create_params, responses
    from openai.types.chat import (
        chat_completion,
        chat_completion_chunk,
    )
    from openai.types.chat import (
        completion_create_params as c,
    )
    from openai.types.responses import response_create_params

    out = {
        "chat request": sorted(c.CompletionCreateParamsBase.__annotations__),
        "chat reply": sorted(chat_completion.ChatCompletion.model_fields),
        "chat choice": sorted(chat_completion.Choice.model_fields),
        "chat message": sorted(chat.ChatCompletionMessage.model_fields),
        "chat chunk": sorted(chat_completion_chunk.ChatCompletionChunk.model_fields),
        "completion request": sorted(
            completion_create_params.CompletionCreateParamsBase.__annotations__
        ),
        "responses request": sorted(
            response_create_params.ResponseCreateParamsBase.__annotations__
        ),
        "responses reply": sorted(responses.Response.model_fields),
    }
elif mode == "denied":
    asked = {"model": model, "max_tokens": 48, "temperature": 0}
    out["chat"] = refused(client.chat.completions.create, messages=user("pii"), **asked)
    out["completion"] = refused(client.completions.create, prompt="pii", **asked)
    stream = client.chat.completions.create(messages=user("pii"), stream=True, **asked)
    out["chat streamed"] = read(stream, chat_text)
    stream = client.completions.create(prompt="utf8 plain", stream=True, model=model, **ENDLESS)
    out["mid-stream"] = read(stream, completion_text)
else:
    stream = client.chat.completions.create(
        messages=user("plain"), stream=True, model=model, **ENDLESS
    )
    first = next(stream)
    print("first", flush=True)  # noqa: T201 - the test waits for it
    out = read(stream, chat_text)
json.dump(out, sys.stdout)
