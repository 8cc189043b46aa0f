"""A report as text, row by row or whole, and as tables of docs/benchmarks.md."""

from __future__ import annotations

from typing import Any

Report = dict[str, Any]  # plain data, as in the JSON


def line(found: Report) -> str:
    """One row of a report, as text."""
    if "error" in found:
        return f"{_name(found):46} FAILED: {found['error']}"
    if "cost" in found:
        text = f"{found['cost']:46} {found['value']:10.3g} {found['unit']}"
    else:
        ratios = ", ".join(f"{ratio:.3g}x {peer}" for peer, ratio in found["ratios"].items())
        text = (
            f"{found['work']:46} {duration(found['seconds']):>9}  {found['share']:5.0%} of "
            f"{duration(found['limit']):>8} ({found['bound']})  {ratios}"
        )
        for peer, error in found["failures"].items():
            text += f"  {peer} failed: {error.splitlines()[0][:80]}"
    for goal in found["goals"]:
        text += f"  [{goal['goal']}: {_verdict(goal)}]"
    return text.rstrip()


def _verdict(goal: Report) -> str:
    return {None: "not measured", True: "met", False: "MISSED"}[goal["met"]]


def duration(seconds: float) -> str:
    """Three digits and a unit.

    Examples
    --------
    >>> duration(0.00123), duration(2.5), duration(4.2e-8)
    ('1.23 ms', '2.5 s', '0.042 us')
    """
    for unit, scale in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} us"


def heading(report: Report) -> str:
    """The lines above the rows: the machine, the statistic, the ceilings, the absent peers."""
    ceilings = ", ".join(f"{name} {value:.3g}" for name, value in report["ceilings"].items())
    lines = [
        f"{machine(report)}; times are each the {report['statistic']} of calls, a few of "
        "each in turns; a ratio is the peer's time over ours; what stays in a cache may exceed a "
        "copy's limit",
        f"ceilings: {ceilings}",
    ]
    if report["absent"]:
        lines.append(f"not installed: {', '.join(report['absent'])}")
    return "\n".join(lines)


def machine(report: Report) -> str:
    """The device and the versions of what ran on it."""
    facts = dict(report["facts"])
    device, _ = facts.pop("device"), facts.pop("platform", None)
    others = (f"{name} {str(value).splitlines()[0]}" for name, value in facts.items())
    return f"{device}: {', '.join(others)}"


def models(report: Report) -> str:
    """The measured times beside the model times."""
    return "\n".join(
        f"{found['work']:46} {duration(found['seconds']):>9}, model {duration(found['model']):>9} "
        f"({found['model bound']}), {found['measured / model']:.2f}x"
        + (" FLAGGED" if found["flagged"] else "")
        for found in report["rows"]
        if "model" in found
    )


def summary(report: Report) -> str:
    """How many goals are met, which goals are missed, and what failed or was not measured."""
    rows = report["rows"] + report["costs"]
    goals = [(found, goal) for found in rows for goal in found.get("goals", ())]
    missed = [(found, goal) for found, goal in goals if goal["met"] is False]
    met = sum(goal["met"] is True for _, goal in goals)
    lines = [
        f"{met} goals met, {len(missed)} missed, {len(goals) - met - len(missed)} not measured"
    ]
    for found, goal in missed:
        lines.append(f"  MISSED {_name(found)}: {goal['goal']}, reached {goal['reached']:.3g}")
    failed = [_name(found) for found in rows if "error" in found]
    if failed:
        lines.append(f"failed: {', '.join(failed)}")
    if report["not measured"]:
        lines.append(f"no time for: {', '.join(report['not measured'])}")
    if report["no model"]:
        lines.append(f"no model times: {report['no model']}")
    return "\n".join(lines)


def _name(found: Report) -> str:
    return str(found.get("work") or found["cost"])


def markdown(report: Report) -> str:
    """The rows as tables of docs/benchmarks.md."""
    lines = [
        f"All rows. Each time is the {report['statistic']} of calls, a few of each in turns.",
        "",
        "| work | time | of the limit | times as fast as | goals |",
        "|---|---|---|---|---|",
    ]
    for found in report["rows"]:
        if "error" in found:
            continue
        ratios = ", ".join(f"{ratio:.3g} `{peer}`" for peer, ratio in found["ratios"].items())
        share = f"{found['share']:.0%} ({found['bound']})"
        cells = [found["work"], duration(found["seconds"]), share, ratios, _goals(found)]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "| cost | | goal |", "|---|---|---|"]
    for found in report["costs"]:
        if "error" in found:
            continue
        lines.append(
            f"| {found['cost']} | {found['value']:.3g} {found['unit']} | {_goals(found)} |"
        )  # fmt: skip
    return "\n".join(lines)


def _goals(found: Report) -> str:
    return ", ".join(f"{goal['goal']}: {_verdict(goal)}" for goal in found["goals"])
