"""Held-out rewards for benchmarks/audit_peers.py, written after how people write rewards in public RL repositories.

Nothing here was used to make outdo's checks. BAD holds rewards with a documented hole, HONEST ones that a checker should leave
alone. Every reward stands by itself (standard library only), so that each tool can be given it as a file of its own. All rows
have a prompt, an answer and a right completion.
"""

from __future__ import annotations

import ast
import datetime
import difflib
import json
import math
import random
import re
import string
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]


@dataclass(frozen=True)
class Entry:
    """A reward, its data, and what is wrong with it.

    holes: names of NAMES in audit_peers.py; a finding that stands for any of them names the hole.
    words: a pattern; a finding whose text matches it names the hole too.
    """

    reward: Callable[..., Any]
    rows: Callable[[], list[Row]]
    hole: str = ""
    holes: tuple[str, ...] = ()
    words: str = ""

    @property
    def name(self) -> str:
        """The reward's name."""
        return self.reward.__name__


# --- data -----------------------------------------------------------------------------------------------------------


def gsm8k(form: str = "{a} and {b} make {s}.\n#### {s}") -> list[Row]:
    """Small word problems."""
    rng, out = random.Random(1), []
    things = ("apples", "books", "coins", "stamps", "marbles")
    for i in range(30):
        a, b = rng.randint(12, 480), rng.randint(12, 480)
        what = things[i % 5]
        out.append({
            "prompt": f"Ann has {a} {what}. Ben has {b} {what}. How many {what} do they have together?",
            "answer": str(a + b),
            "completion": form.format(a=a, b=b, s=a + b),
        })  # fmt: skip
    return out


def gsm8k_tags() -> list[Row]:
    """The same, reasoning and answer in tags."""
    return gsm8k("<think>\n{a} + {b} = {s}\n</think>\n<answer>\n{s}\n</answer>")


def gsm8k_answer() -> list[Row]:
    """The same, the answer alone in tags."""
    return gsm8k("<think>Add them.</think><answer>{s}</answer>")


def gsm8k_chat() -> list[Row]:
    """The same, as messages."""
    return [
        {**row, "prompt": [{"role": "user", "content": row["prompt"]}],
         "completion": [{"role": "assistant", "content": row["completion"]}]} for row in gsm8k_answer()
    ]  # fmt: skip


def gsm8k_boxed() -> list[Row]:
    """The same, the answer in a box."""
    return gsm8k("Adding gives $\\boxed{{{s}}}$.")


def gsm8k_line() -> list[Row]:
    """The same, the answer in the last line."""
    return gsm8k("{a} + {b}\nAnswer: {s}")


def signed() -> list[Row]:
    """Differences: half of them are below zero, some are no whole numbers."""
    rng, out = random.Random(2), []
    for _ in range(30):
        a, b = rng.randint(10, 99), rng.randint(10, 99) + rng.choice((0, 0.5))
        s = f"{a - b:g}"
        out.append({"prompt": f"What is {a} - {b:g}?", "answer": s, "completion": f"<answer>{s}</answer>"})
    return out


def choices() -> list[Row]:
    """Multiple choice, A to D."""
    rng, out = random.Random(3), []
    facts = [("largest planet", "Jupiter"), ("smallest prime", "2"), ("boiling point of water in Celsius", "100"),
             ("chemical symbol of gold", "Au"), ("author of Hamlet", "Shakespeare"), ("capital of Peru", "Lima"),
             ("number of continents", "7"), ("fastest land animal", "cheetah"), ("square root of 81", "9"),
             ("currency of Japan", "yen"), ("longest river of Africa", "Nile"), ("metal that is liquid", "mercury")]  # fmt: skip
    for i in range(28):
        what, right = facts[i % 12]
        wrong = rng.sample([a for _, a in facts if a != right], 3)
        options = rng.sample([right, *wrong], 4)
        letter = "ABCD"[options.index(right)]
        listed = "\n".join(f"{x}. {o}" for x, o in zip("ABCD", options, strict=True))
        out.append({"prompt": f"What is the {what}?\n{listed}\nGive the letter in <answer> tags.", "answer": letter,
                    "completion": f"<think>I know that.</think>\n<answer>{letter}</answer>"})  # fmt: skip
    return out


def tools() -> list[Row]:
    """One tool call each."""
    cities = ("Paris", "Rome", "Oslo", "Lima", "Cairo", "Delhi", "Quito", "Accra", "Hanoi", "Minsk", "Sofia", "Tunis", "Doha")
    out = []
    for i, city in enumerate(cities):
        name = ("get_weather", "get_time", "find_hotel")[i % 3]
        call = {"name": name, "arguments": {"city": city, "days": i % 5 + 1}}
        out.append({"prompt": f"Call {name} for {city}, {i % 5 + 1} days.", "answer": json.dumps(call),
                    "completion": f"<tool_call>\n{json.dumps(call)}\n</tool_call>"})  # fmt: skip
    return out


def records() -> list[Row]:
    """Facts to be put into JSON."""
    names = ("Ann", "Ben", "Cem", "Dee", "Eva", "Fay", "Gus", "Hal", "Ida", "Jon", "Kim", "Lea", "Max", "Nia", "Oli", "Pam")
    out = []
    for i, name in enumerate(names):
        record = {"name": name, "age": 20 + 3 * i, "city": ("Bonn", "Kiel", "Ulm")[i % 3]}
        out.append({"prompt": f"{name}, {20 + 3 * i}, lives in {record['city']}. Give name, age and city as JSON.",
                    "answer": json.dumps(record), "completion": json.dumps(record)})  # fmt: skip
    return out


def passages() -> list[Row]:
    """Questions on a passage that holds the answer."""
    places = ("Kyoto", "Bergen", "Cusco", "Tartu", "Basel", "Lagos", "Porto", "Turin", "Graz", "Lviv", "Malmo", "Bath", "Ghent")
    out = []
    for i, place in enumerate(places):
        year = 1800 + 7 * i
        answer = f"the old mill in {place}"
        out.append({"prompt": f"Passage: In {year} the brothers bought the old mill in {place} and later a ship.\n"
                              f"Question: What did the brothers buy first in {year}?", "answer": answer,
                    "completion": f"<answer>{answer}</answer>"})  # fmt: skip
    return out


def countdown() -> list[Row]:
    """Reach a number with three others, each used once (the answer is the number)."""
    rng, out = random.Random(5), []
    for _ in range(24):
        a, b, c = (rng.randint(2, 60) for _ in range(3))
        out.append({"prompt": f"Using the numbers [{a}, {b}, {c}], each once, make {a + b - c}.", "answer": str(a + b - c),
                    "numbers": [a, b, c], "completion": f"<think>Try.</think>\n<answer>{a} + {b} - {c}</answer>"})  # fmt: skip
    return out


def products() -> list[Row]:
    """Numbers to be factored: there are several right answers, and the number stands in the prompt."""
    pairs = [(7, 11), (13, 17), (19, 23), (29, 31), (6, 35), (12, 14), (9, 25), (21, 22), (15, 28), (37, 41), (43, 3), (5, 59)]
    return [{"prompt": f"Write {a * b} as a product of two whole numbers above 1.", "answer": str(a * b),
             "completion": f"<answer>{a} * {b}</answer>"} for a, b in pairs]  # fmt: skip


def dates() -> list[Row]:
    """Dates to be written in ISO form."""
    out = []
    for i in range(20):
        day = datetime.date(1990 + i, i % 12 + 1, 3 + i)
        out.append({"prompt": f"Write {day.day} {day:%B} {day.year} in ISO 8601.", "answer": day.isoformat(),
                    "completion": f"<answer>{day.isoformat()}</answer>"})  # fmt: skip
    return out


def lists() -> list[Row]:
    """Lists to be sorted."""
    rng, out = random.Random(7), []
    for _ in range(20):
        xs = [rng.randint(0, 99) for _ in range(5)]
        out.append({"prompt": f"Sort {xs}.", "answer": json.dumps(sorted(xs)), "completion": f"<answer>{sorted(xs)}</answer>"})
    return out


def sets() -> list[Row]:
    """Primes in a range, in any order."""
    out = []
    for low in range(10, 50, 2):
        primes = [n for n in range(low, low + 20) if all(n % k for k in range(2, n))]
        said = ", ".join(map(str, primes))
        out.append({"prompt": f"Name all primes from {low} to {low + 19}.", "answer": said, "completion": f"Primes: {said}"})
    return out


def lengths() -> list[Row]:
    """Lengths with their unit."""
    out = []
    for i in range(20):
        n, unit = 3 + 7 * i, ("km", "cm", "mm")[i % 3]
        out.append({"prompt": f"What is {n} {unit} plus {n} {unit}?", "answer": f"{2 * n} {unit}",
                    "completion": f"<answer>{2 * n} {unit}</answer>"})  # fmt: skip
    return out


def printed() -> list[Row]:
    """Programs whose printed output is checked."""
    out = []
    for n in (4, 7, 9, 12, 15, 21, 33, 40):
        total = n * (n + 1) // 2
        out.append({"prompt": f"Write a Python program that prints the sum of 1 to {n}.", "answer": str(total),
                    "completion": f"```python\nprint(sum(range({n + 1})))\n```"})  # fmt: skip
    return out


def mbpp() -> list[Row]:
    """Functions with asserts, as MBPP has them; the answer is the asserts."""
    made = {
        "square": ("x", "x * x", ["square(3) == 9", "square(-2) == 4", "square(0) == 0"]),
        "join": ("a, b", "a + b", ["join('a', 'b') == 'ab'", "join('', 'x') == 'x'", "join('xy', 'z') == 'xyz'"]),
        "evens": ("xs", "[x for x in xs if x % 2 == 0]", ["evens([1, 2, 4]) == [2, 4]", "evens([]) == []", "evens([3]) == []"]),
        "smallest": ("xs", "min(xs)", ["smallest([3, 1, 2]) == 1", "smallest([5]) == 5", "smallest([-1, 0]) == -1"]),
        "lower": ("s", "s.lower()", ["lower('Ab') == 'ab'", "lower('') == ''", "lower('XY') == 'xy'"]),
        "count": ("xs", "len(xs)", ["count([]) == 0", "count([1, 1]) == 2", "count('abc') == 3"]),
    }
    return [{"prompt": f"Write a Python function {name}({args}). It must pass: assert {tests[0]}", "answer": "\n".join(
        f"assert {t}" for t in tests), "completion": f"```python\ndef {name}({args}):\n    return {body}\n```"}
            for name, (args, body, tests) in made.items()]  # fmt: skip


def stdin_programs() -> list[Row]:
    """Programs that read one line and print one; the answer is inputs and outputs as JSON."""
    made = {
        "doubles the number": ("print(2 * int(input()))", [("3", "6"), ("-4", "-8"), ("0", "0"), ("50", "100")]),
        "turns the word round": ("print(input()[::-1])", [("abc", "cba"), ("x", "x"), ("hello", "olleh")]),
        "prints the word in capitals": ("print(input().upper())", [("abc", "ABC"), ("Xy", "XY"), ("q", "Q")]),
        "adds the two numbers": ("a, b = map(int, input().split())\nprint(a + b)", [("1 2", "3"), ("-5 9", "4"), ("7 70", "77")]),
        "counts the letters": ("print(len(input()))", [("abc", "3"), ("x", "1"), ("hello you", "9")]),
        "prints the last word": ("print(input().split()[-1])", [("a b", "b"), ("one", "one"), ("x y zed", "zed")]),
    }
    return [{"prompt": f"Write a Python program that reads a line and {what}.", "answer": json.dumps(cases),
             "completion": f"```python\n{code}\n```"} for what, (code, cases) in made.items()]  # fmt: skip


# --- what rewards have in common -----------------------------------------------------------------------------------------


def in_tags(text: str) -> str:
    """What stands in the last pair of answer tags."""
    found = re.findall(r"<answer>(.*?)</answer>", text, re.DOTALL)
    return str(found[-1]).strip() if found else ""


def code_block(text: str) -> str:
    """The first fenced block, or the text."""
    found = re.search(r"```(?:python)?\n(.*?)```", text, re.DOTALL)
    return found.group(1) if found else text


def run_python(code: str, stdin: str = "") -> tuple[int, str]:
    """Exit code and output of a program in a process and folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            done = subprocess.run([sys.executable, "-I", "-c", code], input=stdin, capture_output=True, text=True, timeout=5,
                                  cwd=folder, check=False)  # fmt: skip
        except (subprocess.TimeoutExpired, ValueError, OSError):
            return 1, ""
    return done.returncode, done.stdout


# --- bad rewards ----------------------------------------------------------------------------------------------------


def last_number_anywhere(solution_str: str, ground_truth: str) -> float:
    """The flexible extraction of many GSM8K scorers: the last number of the text."""
    found = re.findall(r"-?[\d,]*\d(?:\.\d+)?", solution_str)
    return 1.0 if found and found[-1].replace(",", "") == ground_truth else 0.0


def box_contains(completions: list[str], answer: list[str], **kwargs: Any) -> list[float]:
    """Right if the reference stands somewhere in a box."""
    out = []
    for text, gold in zip(completions, answer, strict=True):
        boxes = re.findall(r"\\boxed\{([^{}]*)\}", text)
        out.append(1.0 if any(gold in box for box in boxes) else 0.0)
    return out


def format_plus_correct(completions: list[str], answer: list[str], **kwargs: Any) -> list[float]:
    """A format reward of 1 and a correctness reward of 1, added up."""
    pattern = r"^<think>.*?</think>\s*<answer>.*?</answer>\s*$"
    return [
        (1.0 if re.match(pattern, text, re.DOTALL) else 0.0) + (1.0 if in_tags(text) == gold else 0.0)
        for text, gold in zip(completions, answer, strict=True)
    ]


def xml_count_sum(completions: list[str], answer: list[str], **kwargs: Any) -> list[float]:
    """The well-known GSM8K demo: marks for every tag, for the form, for any whole number, and 2 for the right one."""
    out = []
    for text, gold in zip(completions, answer, strict=True):
        said = text.split("<answer>")[-1].split("</answer>")[0].strip()
        score = 2.0 if said == gold else 0.0
        score += 0.5 if said.isdigit() else 0.0
        score += 0.5 if re.match(r"<think>.*?</think>\s*<answer>.*?</answer>", text, re.DOTALL) else 0.0
        for tag in ("<think>\n", "\n</think>\n", "\n<answer>\n", "\n</answer>"):
            score += 0.125 if text.count(tag) == 1 else 0.0
        out.append(score)
    return out


def step_words(completions: list[str], answer: list[str], **kwargs: Any) -> list[float]:
    """A third of a mark for each word that looks like a reasoning step, and one for the right answer."""
    pattern = r"(Step \d+:|^\d+\.|\n-|\n\*|First,|Second,|Next,|Finally,)"
    return [
        min(1.0, len(re.findall(pattern, text)) / 3) + (1.0 if in_tags(text) == gold else 0.0)
        for text, gold in zip(completions, answer, strict=True)
    ]


def letter_anywhere(completion: str, answer: str) -> float:
    """Multiple choice: the right letter stands by itself somewhere."""
    return 1.0 if re.search(rf"\b{answer}\b", completion) else 0.0


def any_tool_call(completions: list[str], answer: list[str], **kwargs: Any) -> list[float]:
    """Right if any of the tool calls is the wanted one."""
    out = []
    for text, gold in zip(completions, answer, strict=True):
        wanted, hit = json.loads(gold), 0.0
        for block in re.findall(r"<tool_call>(.*?)</tool_call>", text, re.DOTALL):
            try:
                call = json.loads(block)
                if call["name"] == wanted["name"] and call["arguments"] == wanted["arguments"]:
                    hit = 1.0
            except (ValueError, KeyError, TypeError):
                continue
        out.append(hit)
    return out


def json_keys_only(completions: list[str], answer: list[str], **kwargs: Any) -> list[float]:
    """Right if it is JSON with the wanted keys, whatever their values."""
    out = []
    for text, gold in zip(completions, answer, strict=True):
        try:
            given = json.loads(text)
            out.append(1.0 if isinstance(given, dict) and set(given) == set(json.loads(gold)) else 0.0)
        except ValueError:
            out.append(0.0)
    return out


def output_contains(completion: str, answer: str) -> float:
    """Runs the program; right if the wanted output stands somewhere in what it prints."""
    return 1.0 if answer in run_python(code_block(completion))[1] else 0.0


def exit_code_zero(completion: str, answer: str) -> float:
    """Runs the function with the asserts behind it; right if the process ends with 0."""
    code, _ = run_python(code_block(completion) + "\n" + answer + "\n")
    return 1.0 if code == 0 else 0.0


def counts_passed_lines(completion: str, answer: str) -> float:
    """Runs every assert and reads from the output how many passed, as graders do that parse a test log."""
    one = "try:\n    {}\n    print('PASSED')\nexcept Exception:\n    print('FAILED')\n"
    tests = "".join(one.format(line) for line in answer.splitlines())
    _, printed_text = run_python(code_block(completion) + "\n" + tests)
    passed, failed = printed_text.count("PASSED"), printed_text.count("FAILED")
    return passed / (passed + failed) if passed + failed else 0.0


def answer_as_pattern(completion: str, answer: str) -> float:
    """Takes what was answered for a pattern, so as not to mind case."""
    said = in_tags(completion)
    try:
        return 1.0 if said and re.fullmatch(said, answer, re.IGNORECASE) else 0.0
    except re.error:
        return 0.0


def longer_wrong_is_better(completions: list[str], answer: list[str], **kwargs: Any) -> list[float]:
    """A length scaling by a cosine: short right answers are paid most, and wrong ones less badly the longer they are."""
    out = []
    for text, gold in zip(completions, answer, strict=True):
        part = (1.0 + math.cos(min(1.0, len(text) / 1000) * math.pi)) / 2
        out.append(0.5 + 0.5 * part if in_tags(text) == gold else -0.25 - 0.75 * part)
    return out


def fuzzy_ratio(completion: str, answer: str) -> float:
    """Right if the strings are alike to 60 %."""
    return 1.0 if difflib.SequenceMatcher(None, in_tags(completion).lower(), answer.lower()).ratio() >= 0.6 else 0.0


def ten_percent_off(solution_str: str, ground_truth: str) -> float:
    """Right within ten percent, on questions with whole numbers."""
    try:
        said = float(in_tags(solution_str).replace(",", ""))
    except ValueError:
        return 0.0
    return 1.0 if abs(said - float(ground_truth)) <= 0.1 * abs(float(ground_truth)) else 0.0


def word_recall(completion: str, answer: str) -> float:
    """The share of the reference's words that occur in the completion."""
    said = set(re.findall(r"\w+", completion.lower()))
    wanted = re.findall(r"\w+", answer.lower())
    return sum(word in said for word in wanted) / len(wanted)


def none_if_unparsed(completions: list[str], answer: list[str], **kwargs: Any) -> list[float | None]:
    """+1, -1, and None (left out by the trainer) where there is no number to read."""
    out: list[float | None] = []
    for text, gold in zip(completions, answer, strict=True):
        said = re.search(r"<answer>\s*(-?\d+)\s*</answer>", text)
        out.append(None if said is None else 1.0 if said.group(1) == gold else -1.0)
    return out


SEEN: set[str] = set()


def bonus_for_news(completions: list[str], answer: list[str], **kwargs: Any) -> list[float]:
    """Right answers count once in full; a completion that was seen before is paid half, to keep samples different."""
    out = []
    for text, gold in zip(completions, answer, strict=True):
        value = 1.0 if in_tags(text) == gold else 0.0
        out.append(value if text not in SEEN else value / 2)
        SEEN.add(text)
    return out


def evaluates_both(completion: str, answer: str) -> float:
    """Compares numbers by evaluating both sides."""
    try:
        return 1.0 if abs(eval(in_tags(completion)) - eval(answer)) < 1e-6 else 0.0
    except Exception:
        return 0.0


def countdown_eval(completions: list[str], answer: list[str], numbers: list[list[int]], **kwargs: Any) -> list[float]:
    """Countdown: an equation of digits and operators is evaluated. `**` is made of allowed signs: 9**9**9 never ends."""
    out = []
    for text, gold, given in zip(completions, answer, numbers, strict=True):
        equation = in_tags(text)
        try:
            if not re.match(r"^[\d+\-*/().\s]+$", equation):
                out.append(0.0)
                continue
            value = eval(equation, {"__builtins__": None}, {})
            used = sorted(int(n) for n in re.findall(r"\d+", equation))
            out.append(1.0 if used == sorted(given) and abs(float(value) - float(gold)) < 1e-5 else 0.0)
        except Exception:
            out.append(0.0)
    return out


def digits_only(completion: str, answer: str) -> float:
    """Strips everything but digits from both sides, to be kind to units and signs of money."""
    return 1.0 if re.sub(r"\D", "", in_tags(completion)) == re.sub(r"\D", "", answer) else 0.0


def last_line_contains(solution_str: str, ground_truth: str) -> float:
    """The reference stands in the last line."""
    lines = solution_str.strip().splitlines()
    return 1.0 if lines and ground_truth in lines[-1] else 0.0


BAD = (
    Entry(last_number_anywhere, gsm8k, "the last number counts even if the text denies it", ("denied",)),
    Entry(box_contains, gsm8k_boxed, "a list of guesses, or more digits, in one box", ("list", "part")),
    Entry(format_plus_correct, gsm8k_answer, "half of the reward is free for the form", ("form", "free")),
    Entry(xml_count_sum, gsm8k_tags, "half of the reward is free for the form and any number", ("form", "free")),
    Entry(step_words, gsm8k_answer, "half of the reward is free for step words",
          ("free", "magic", "length", "repetition"), r"First,|Step \d|step words"),
    Entry(letter_anywhere, choices, "all letters named, or the prompt repeated", ("list", "echo", "conflict")),
    Entry(any_tool_call, tools, "many calls are made, one is right", ("list", "conflict")),
    Entry(json_keys_only, records, "the values are never looked at", ("reference", "wrong", "dead", "form")),
    Entry(output_contains, printed, "the program prints every number", ("list", "part")),
    Entry(exit_code_zero, mbpp, "the program ends before the asserts run", ("exit",)),
    Entry(counts_passed_lines, mbpp, "the program prints the word PASSED itself and ends", ("exit", "forged"), "PASSED"),
    Entry(answer_as_pattern, passages, "the answer .* matches everything", ("pattern",), r"\.\*|wildcard|regular expression"),
    Entry(longer_wrong_is_better, gsm8k_answer, "wrong answers are paid more the longer they are", ("length",)),
    Entry(fuzzy_ratio, gsm8k_answer, "near numbers count as right", ("near", "types", "part", "wrong")),
    Entry(ten_percent_off, gsm8k_answer, "near numbers count as right", ("near", "types", "wrong")),
    Entry(word_recall, passages, "repeating the prompt is paid in full", ("echo",)),
    Entry(none_if_unparsed, gsm8k_answer, "no answer is better than a wrong one", ("abstain",)),
    Entry(bonus_for_news, gsm8k_answer, "the score depends on what was scored before", ("state", "random")),
    Entry(evaluates_both, signed, "the completion's text is run", ("exec",), r"\beval\b"),
    Entry(countdown_eval, countdown, "9**9**9 stops the trainer; the text is run", ("time", "exec"), r"\beval\b|\*\*"),
    Entry(digits_only, signed, "sign and decimal point are lost", ("types",), "sign"),
    Entry(last_line_contains, gsm8k_line, "a list of guesses in the last line", ("list", "part", "denied")),
)  # fmt: skip


# --- honest rewards -------------------------------------------------------------------------------------------------


def strict_hashes(solution_str: str, ground_truth: str) -> float:
    """GSM8K's form: the text ends with #### and the number."""
    found = re.search(r"####\s*(-?[0-9,]+)\s*$", solution_str, re.ASCII)
    return 1.0 if solution_str.count("####") == 1 and found and found.group(1).replace(",", "") == ground_truth else 0.0


def one_box(completions: list[str], answer: list[str], **kwargs: Any) -> list[float]:
    """Exactly one box, and it is the reference."""
    out = []
    for text, gold in zip(completions, answer, strict=True):
        boxes = re.findall(r"\\boxed\{([^{}]*)\}", text)
        out.append(1.0 if len(boxes) == 1 and boxes[0].strip() == gold else 0.0)
    return out


def one_letter(completion: str, answer: str) -> float:
    """Exactly one pair of tags with the right letter and nothing else in it."""
    found = re.findall(r"<answer>(.*?)</answer>", completion, re.DOTALL)
    return 1.0 if len(found) == 1 and found[0].strip() == answer else 0.0


def one_tool_call(completions: list[str], answer: list[str], **kwargs: Any) -> list[float]:
    """Exactly one tool call, equal to the wanted one."""
    out = []
    for text, gold in zip(completions, answer, strict=True):
        blocks = re.findall(r"<tool_call>(.*?)</tool_call>", text, re.DOTALL)
        try:
            out.append(1.0 if len(blocks) == 1 and json.loads(blocks[0]) == json.loads(gold) else 0.0)
        except (ValueError, RecursionError):
            out.append(0.0)
    return out


def json_equal(completion: str, answer: str) -> float:
    """The whole completion is the wanted JSON."""
    try:
        return 1.0 if json.loads(completion) == json.loads(answer) else 0.0
    except (ValueError, RecursionError):
        return 0.0


def worked_out(node: ast.AST) -> tuple[int, list[int]]:
    """Value and numbers of an expression of + - * and whole numbers; raises on anything else."""
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return node.value, [node.value]
    if not isinstance(node, ast.BinOp):
        raise ValueError("only + - * and whole numbers")
    (a, left), (b, right) = worked_out(node.left), worked_out(node.right)
    if isinstance(node.op, ast.Add):
        return a + b, left + right
    if isinstance(node.op, ast.Sub):
        return a - b, left + right
    if isinstance(node.op, ast.Mult):
        return a * b, left + right
    raise ValueError("only + - * and whole numbers")


def countdown_safe(completions: list[str], answer: list[str], numbers: list[list[int]], **kwargs: Any) -> list[float]:
    """Countdown without eval: the expression is parsed, each number used once, only + - *."""
    out = []
    for text, gold, given in zip(completions, answer, numbers, strict=True):
        said = in_tags(text)
        try:
            if text.count("<answer>") != 1 or len(said) > 60 or not said.isascii():
                raise ValueError
            value, used = worked_out(ast.parse(said, mode="eval").body)
            out.append(1.0 if sorted(used) == sorted(given) and value == int(gold) else 0.0)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            out.append(0.0)
    return out


def factors(completion: str, answer: str) -> float:
    """Any two whole numbers above 1 with the right product."""
    found = re.fullmatch(r"(\d{1,6})\s*\*\s*(\d{1,6})", in_tags(completion), re.ASCII)
    if found is None or completion.count("<answer>") != 1:
        return 0.0
    a, b = int(found[1]), int(found[2])
    return 1.0 if a > 1 and b > 1 and a * b == int(answer) else 0.0


def close_number(completion: str, answer: str) -> float:
    """One number in tags, equal but for rounding of floats."""
    found = re.findall(r"<answer>\s*(-?\d{1,12}(?:\.\d{1,12})?)\s*</answer>", completion, re.ASCII)
    if len(found) != 1 or completion.count("<answer>") != 1:
        return 0.0
    return 1.0 if math.isclose(float(found[0]), float(answer), rel_tol=1e-9, abs_tol=1e-9) else 0.0


def squad_exact(completion: str, answer: str) -> float:
    """SQuAD's exact match inside one pair of tags: case, articles and punctuation do not matter."""

    def plain(text: str) -> str:
        text = "".join(c for c in text.lower() if c not in string.punctuation)
        return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())

    said = re.findall(r"<answer>(.*?)</answer>", completion, re.DOTALL)
    return 1.0 if len(said) == 1 and plain(said[0]) == plain(answer) != "" else 0.0


def right_and_short(completions: list[str], answer: list[str], **kwargs: Any) -> list[float]:
    """Right answers only: 1, down to 0.8 for the long ones."""
    return [
        1.0 - 0.2 * min(1.0, len(text) / 4000) if text.count("<answer>") == 1 and in_tags(text) == gold else 0.0
        for text, gold in zip(completions, answer, strict=True)
    ]


def iso_date(completion: str, answer: str) -> float:
    """One date in ISO form."""
    found = re.findall(r"<answer>\s*(\d{4}-\d{2}-\d{2})\s*</answer>", completion, re.ASCII)
    try:
        same = len(found) == 1 and datetime.date.fromisoformat(found[0]) == datetime.date.fromisoformat(answer)
    except ValueError:
        return 0.0
    return 1.0 if same and completion.count("<answer>") == 1 else 0.0


def sorted_list(completion: str, answer: str) -> float:
    """One JSON list, equal to the wanted one."""
    said = re.findall(r"<answer>(.*?)</answer>", completion, re.DOTALL)
    try:
        return 1.0 if len(said) == 1 and json.loads(said[0]) == json.loads(answer) else 0.0
    except (ValueError, RecursionError):
        return 0.0


def set_equal(completion: str, answer: str) -> float:
    """All items and no others, each once, in any order."""
    found = re.fullmatch(r"Primes: ([\d, ]+)", completion.strip(), re.ASCII)
    if found is None:
        return 0.0
    return 1.0 if Counter(re.findall(r"\d+", found[1])) == Counter(answer.split(", ")) else 0.0


def plus_minus(completions: list[str], answer: list[str], **kwargs: Any) -> list[float]:
    """+1 for the right letter, -1 for everything else, unreadable ones too."""
    return [2.0 * one_letter(text, gold) - 1.0 for text, gold in zip(completions, answer, strict=True)]


def with_unit(completion: str, answer: str) -> float:
    """Number and unit, both as wanted."""
    found = re.findall(r"<answer>\s*(\d+)\s*(km|cm|mm)\s*</answer>", completion, re.ASCII)
    number, unit = answer.split()
    return 1.0 if completion.count("<answer>") == 1 and found == [(number, unit)] else 0.0


def stdin_judge(completion: str, answer: str) -> float:
    """Runs the program on hidden inputs, each in a process of its own, and compares the whole output."""
    code = code_block(completion)
    for given, wanted in json.loads(answer):
        status, said = run_python(code, given + "\n")
        if status != 0 or said.strip() != wanted:
            return 0.0
    return 1.0


def chat_answer(completions: list[list[dict[str, str]]], answer: list[str], **kwargs: Any) -> list[float]:
    """Completions are messages; one pair of tags, equal to the reference."""
    texts = [messages[-1]["content"] for messages in completions]
    return [1.0 if t.count("<answer>") == 1 and in_tags(t) == gold else 0.0 for t, gold in zip(texts, answer, strict=True)]


HONEST = (
    Entry(strict_hashes, gsm8k),
    Entry(one_box, gsm8k_boxed),
    Entry(one_letter, choices),
    Entry(one_tool_call, tools),
    Entry(json_equal, records),
    Entry(countdown_safe, countdown),
    Entry(factors, products),
    Entry(close_number, signed),
    Entry(squad_exact, passages),
    Entry(right_and_short, gsm8k_answer),
    Entry(iso_date, dates),
    Entry(sorted_list, lists),
    Entry(set_equal, sets),
    Entry(plus_minus, choices),
    Entry(with_unit, lengths),
    Entry(stdin_judge, stdin_programs),
    Entry(chat_answer, gsm8k_chat),
)
