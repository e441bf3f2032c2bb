"""A11: characters that look alike. Wrong answers must not pass by them; right ones with a no-break space or wide digits
should."""

from __future__ import annotations

import unicodedata

from outdo.audit.audit import Audit
from outdo.audit.base import Check, Finding, Fixture, Knows, Verdict, bound, example
from outdo.audit.fixtures import exact_match, numeric_equiv, tagged

_ROWS = 8
_HIDDEN = ("\u200b", "\u00ad", "\u2060")


def drops_what_is_not_ascii(answer: str, reference: str) -> float:
    """Leaves out every other character, so that nothing is left of a wrong answer in other letters."""
    said = (tagged(answer) or "").encode("ascii", "ignore").decode().strip()
    return float(reference.startswith(said))


class Unicode(Check):
    """Wrong answers in disguise, right ones in another script."""

    id = "A11"
    title = "characters that look alike"
    fix = "Normalise with NFKC, drop invisible characters, then compare; an answer of which nothing is left is wrong."
    needs_accepted = True
    bad = (Fixture(drops_what_is_not_ascii),)
    good = (Fixture(exact_match), Fixture(numeric_equiv))

    def run(self, audit: Audit) -> Finding:
        """See the head of this file."""
        rows = audit.some(_ROWS, self.id)
        if len(rows) < 3:
            return self.finding(Verdict.NOT_EXERCISED, f"{len(rows)} rows have a form to put an answer into")
        wrong = [
            c.saying(t.fill(w))
            for c, t in rows
            for w in ("\u0437\u0430", "\u4e00\u4e8c", "7\u200b7\u200b7", "\U0001d7df", "\u0416")
        ]
        taken = audit.accepts(wrong)
        if any(taken):
            case = wrong[taken.index(True)]
            (result,) = audit.score([case])
            return self.finding(
                Verdict.FAIL,
                f"accepted {sum(taken)} of {len(wrong)} wrong answers in other characters",
                n=len(wrong),
                effect=sum(taken) / len(wrong),
                knows=str(Knows.NOTHING),
                grounds="counterexample",
                example=example(case, result),
            )
        dressed = []
        for c, t in rows:
            right = c.reference or ""
            wide = "".join(chr(ord(x) + 0xFEE0) if x.isdigit() and x.isascii() else x for x in right)
            forms = [f"\u00a0{right}\u00a0", f"{right}\u202f", right + _HIDDEN[0], wide, unicodedata.normalize("NFD", right)]
            dressed += [c.saying(t.fill(f), True) for f in dict.fromkeys(forms) if f != right]
        refused = [c for c, ok in zip(dressed, audit.accepts(dressed), strict=True) if not ok]
        said = f"none of {len(wrong)} accepted; {len(refused)} of {len(dressed)} right answers in other characters refused"
        return self.finding(Verdict.PASS, said, n=len(wrong), bound=bound(len(wrong)), effect=len(refused) / max(1, len(dressed)))
