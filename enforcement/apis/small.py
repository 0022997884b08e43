"""Embeddings and the list of models."""

from __future__ import annotations

from typing import Final

from enforcement.apis.common import NOT_TEXT, PARTS, PROGRAM, TOKENS, USAGE
from enforcement.bodies.leaves import FREE, NAME, ROLE, SCALAR, TEXT, TEXTS, VECTOR
from enforcement.bodies.shapes import Either, Many, Obj, each

EMBEDDING_REQUEST: Final = Obj(
    each(NAME, "model encoding_format request_id embed_dtype endianness"),
    each(SCALAR, "dimensions truncate_prompt_tokens add_special_tokens priority normalize"),
    each(TEXT, "user"),
    # vLLM embeds a conversation, too.
    messages=Many(Obj(role=ROLE, content=Either(text=TEXT, many=PARTS))),
    input=TEXTS,
    prompt_token_ids=TOKENS,
    prompt_embeds=NOT_TEXT,
    chat_template=PROGRAM,
    more=True,
)
EMBEDDING_REPLY: Final = Obj(
    each(NAME, "id object model"),
    created=SCALAR,
    usage=USAGE,
    data=Many(Obj(each(NAME, "object index"), embedding=VECTOR, more=True)),
    more=True,
)

MODELS_REPLY: Final = Obj(
    each(NAME, "object first_id last_id has_more"),
    # Servers say much of a model: every string in it is read.
    data=FREE,
    models=FREE,
    more=True,
)
