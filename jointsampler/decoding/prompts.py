"""Prompts: texts and conversations to token ids, with every check of their form and length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..errors import UserError
from ..teachers.protocol import Teacher

# A text, or a conversation: messages with "role" and "content", for the chat template.
Prompt = str | Sequence[Mapping[str, str]]


def prompt_text(prompt: Prompt) -> str:
    """The words of a prompt without the markup of any template: context for a judge."""
    if isinstance(prompt, str):
        return prompt
    return "".join(message["content"] + "\n" for message in prompt)


def encode_chat(teacher: Teacher, messages: Sequence[Mapping[str, str]]) -> list[int]:
    """Token ids of a conversation, up to the beginning of the assistant's turn.

    Where the last message is the assistant's, the response continues it.

    Raises UserError: no chat template, or messages that the template refuses.
    """
    if teacher.tokenizer.chat_template is None:
        raise UserError(
            f"Teacher {teacher.name!r} has no chat template: it is no chat model; give the prompt as text."
        )
    try:
        begun = bool(messages) and messages[-1]["role"] == "assistant"
        encoded = teacher.tokenizer.apply_chat_template(
            [dict(message) for message in messages],
            add_generation_prompt=not begun,
            continue_final_message=begun,
            return_dict=True,
        )
    except Exception as error:  # templates raise many types
        raise UserError(
            f"The chat template of teacher {teacher.name!r} refuses the messages ({error}): give a list "
            "of {'role': ..., 'content': ...}."
        ) from None
    return list(encoded["input_ids"])


def encode_prompts(
    teacher: Teacher, prompts: Sequence[Prompt] | None, max_new_tokens: int
) -> list[list[int]]:
    """Token ids of each prompt, bos first; one lone bos without prompts.

    A conversation is encoded by its template, which places its own bos.
    Raises UserError where prompt and response together exceed the teacher's context.
    """
    bos = [] if teacher.bos_id is None else [teacher.bos_id]
    if prompts is None:
        encoded = [bos]
    else:
        if isinstance(prompts, str):
            raise UserError("prompts must be a list of strings, not one string.")
        encoded = [
            bos + teacher.tokenizer.encode(prompt, add_special_tokens=False)
            if isinstance(prompt, str)
            else encode_chat(teacher, prompt)
            for prompt in prompts
        ]
    for index, ids in enumerate(encoded):
        if len(ids) + max_new_tokens > teacher.max_length:
            raise UserError(
                f"Prompt {index} has {len(ids)} tokens, which with max_new_tokens={max_new_tokens} "
                f"exceeds the context of teacher {teacher.name!r} ({teacher.max_length}): "
                "shorten the prompt or the response."
            )
    return encoded


def longest_row(teacher: Teacher, prompts: Sequence[Prompt] | None, max_new_tokens: int) -> int:
    """Tokens of the row, prompt and response, whose prompt has the longest text."""
    longest = None if prompts is None else [max(prompts, key=lambda p: len(prompt_text(p)))]
    return len(encode_prompts(teacher, longest, max_new_tokens)[0]) + max_new_tokens
