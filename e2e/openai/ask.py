"""Asks a gateway with the official `openai` client, once whole and once streamed: ask.py BASE_URL MODEL."""

import sys

from openai import OpenAI


def main():
    base_url, model = sys.argv[1:]
    client = OpenAI(base_url=base_url, max_retries=0, timeout=60)
    print("models:", ", ".join(found.id for found in client.models.list()))
    question = {"model": model, "max_tokens": 16, "messages": [{"role": "user", "content": "What is a koinon?"}]}
    whole = client.chat.completions.create(**question)
    print("answered:", repr(whole.choices[0].message.content), f"({whole.usage.completion_tokens} tokens)")
    pieces = [
        event.choices[0].delta.content or ""
        for event in client.chat.completions.create(stream=True, **question)
        if event.choices
    ]
    print("streamed:", repr("".join(pieces)), f"({len(pieces)} events)")


main()
