"""Fields that several APIs have, and contents that none may carry unseen."""

from __future__ import annotations

from typing import Final

from enforcement.bodies.leaves import (
    BLOB,
    DROPPED,
    ECHO,
    FREE,
    NAME,
    SCALAR,
    TEXT,
    TEXTS,
    URL,
    Refused,
    Shape,
)
from enforcement.bodies.shapes import Either, Many, Obj, Tagged, each

NOT_TEXT: Final = Refused("content_not_supported", "content that cannot be read here is refused")
TOKENS: Final = Refused("token_ids_not_supported", "token ids are refused; send text")
STORED: Final = Refused(
    "stored_context_not_supported",
    "context that the model server has stored is not seen here, so it is refused; send the texts",
)
PROGRAM: Final = Refused(
    "field_not_supported", "this would change the texts after they were decided on; it is refused"
)
HOSTED: Final = "tool_not_supported"  # tools that the server itself runs: nothing here sees them

# How a model server samples. What is here holds numbers, or text that is guarded as free JSON.
SAMPLING: Final[dict[str, Shape]] = {
    **each(
        SCALAR,
        "temperature top_p top_k min_p typical_p n best_of max_tokens max_completion_tokens"
        " min_tokens presence_penalty frequency_penalty repetition_penalty length_penalty seed"
        " stream store parallel_tool_calls ignore_eos skip_special_tokens"
        " spaces_between_special_tokens truncate_prompt_tokens"
        " include_stop_str_in_output add_generation_prompt continue_final_message"
        " add_special_tokens include_reasoning priority use_beam_search early_stopping echo"
        " tfs_z repeat_penalty mirostat_mode mirostat_tau mirostat_eta"
        " cache_prompt timings_per_token",
    ),
    **each(TEXTS, "stop bad_words"),
    **each(TEXT, "user safety_identifier prompt_cache_key cache_salt grammar guided_regex"),
    **each(NAME, "model service_tier request_id prompt_cache_retention logit_bias_type"),
    **each(
        FREE,
        "logit_bias metadata stop_token_ids allowed_token_ids stream_options response_format"
        " guided_json guided_choice guided_grammar guided_decoding_backend"
        " guided_whitespace_pattern structured_outputs json_schema vllm_xargs"
        " repetition_detection prompt_cache_options",
    ),
    **each(TOKENS, "prompt_token_ids token_ids input_ids return_token_ids"),
    # Its entries are keyed by token id.
    **each(TOKENS, "return_tokens_as_token_ids prompt_logprobs"),
    **each(
        NOT_TEXT,
        "prompt_embeds input_embeds multi_modal_data mm_processor_kwargs image images file files"
        " input_audio image_url video_url input_image input_file image_data",
    ),
    **each(PROGRAM, "chat_template logits_processors"),
    # vLLM fetches what another server has computed of texts, from an address that stands here.
    **each(STORED, "kv_transfer_params ec_transfer_params"),
}

USAGE: Final = FREE  # numbers, by names that differ from server to server

# Copies and internals of a model server's reply that never pass.
INTERNALS: Final[dict[str, Shape]] = each(
    DROPPED,
    "token_ids prompt_token_ids prompt_logprobs routed_experts kv_transfer_params"
    " ec_transfer_params metrics"
    " obfuscation",
)

# An error is read as a whole: every string in it is a text (`detail` may repeat the input).
ERROR: Final = Either(text=TEXT, many=ECHO, obj=ECHO)

CACHE_CONTROL: Final = Obj(each(NAME, "type ttl"), more=True)


# -- parts of a message, in the way of OpenAI's chat completions -----------------------------------

IMAGE: Final = Obj(each(NAME, "type uuid"), image_url=Either(
    text=URL, obj=Obj(each(NAME, "detail format"), url=URL)), media="image", more=True,
)  # fmt: skip
AUDIO: Final = Obj(
    each(NAME, "type uuid"),
    input_audio=Obj(each(NAME, "format"), data=BLOB),
    audio_url=Either(text=URL, obj=Obj(url=URL)),
    media="audio",
    more=True,
)
VIDEO: Final = Obj(
    each(NAME, "type uuid"),
    video_url=Either(text=URL, obj=Obj(url=URL)),
    media="video",
    more=True,
)
FILE: Final = Obj(
    each(NAME, "type"),
    file=Obj(each(NAME, "file_id"), filename=TEXT, file_data=Either(text=BLOB)),
    media="file",
    more=True,
)
TEXT_PART: Final = Obj(
    each(NAME, "type uuid"), each(TEXT, "text"), cache_control=CACHE_CONTROL, more=True
)
PARTS: Final = Many(
    Either(
        text=TEXT,
        obj=Tagged(
            {
                "text": TEXT_PART,
                "input_text": TEXT_PART,
                "output_text": TEXT_PART,
                "refusal": Obj(each(NAME, "type"), refusal=TEXT),
                "thinking": Obj(each(NAME, "type"), thinking=TEXT, more=True),
                "image_url": IMAGE,
                "input_audio": AUDIO,
                "audio_url": AUDIO,
                "video_url": VIDEO,
                "file": FILE,
            },
            otherwise="content_not_supported",
        ),
    )
)
