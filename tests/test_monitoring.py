"""The dashboard, the alerts and the autoscaler ask for metrics that the server gives, and ask rightly.

Every PromQL expression is parsed. What is asked of a metric must suit its type: a counter's rate, a
histogram's series, a gauge as it is.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import promql_parser as promql
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from quire import DraftStats
from quire.kv import PoolUsage
from quire_server.app import build_app
from quire_server.config import ServeConfig
from quire_server.metrics import ServerMetrics
from quire_server.metrics.names import METRIC_NAMES
from quire_server.ops.front_end import front_end as ops
from quire_server.service import Service
from quire_server.testing import FakeEngine

DEPLOY = Path(__file__).resolve().parent.parent / "deploy"
DASHBOARD = DEPLOY / "grafana" / "quire.json"
RULES = DEPLOY / "prometheus" / "rules.yaml"

RATES = {"rate", "irate", "increase"}
OVER_TIME = {"avg_over_time", "max_over_time", "min_over_time", "deriv", "delta"}
HISTOGRAM = ("_bucket", "_sum", "_count")
ADDED_BY_SCRAPING = {"instance", "job"}
# Grafana's own, for variables; Prometheus knows no such function.
LABEL_VALUES = re.compile(r"label_values\((.+), (\w+)\)")


@dataclass(frozen=True, slots=True)
class Use:
    """One selector of an expression.

    Attributes:
        series: name asked for.
        labels: labels that are matched, or that aggregations around it keep.
        functions: functions around it, outermost first.
    """

    series: str
    labels: frozenset[str]
    functions: tuple[str, ...]


def uses(
    expression: promql.Expr, functions: tuple[str, ...] = (), kept: frozenset[str] = frozenset()
) -> Iterator[Use]:
    """All selectors of a parsed expression."""
    match expression:
        case promql.VectorSelector():
            matched = frozenset(matcher.name for matcher in expression.matchers.matchers)
            yield Use(expression.name or "", matched | kept, functions)
        case promql.MatrixSelector():
            yield from uses(expression.vector_selector, functions, kept)
        case promql.Call():
            for argument in expression.args:
                yield from uses(argument, (*functions, expression.func.name), kept)
        case promql.AggregateExpr():
            named = expression.modifier.labels if expression.modifier else []
            yield from uses(expression.expr, functions, kept.union(named))
        case promql.ParenExpr() | promql.UnaryExpr():
            yield from uses(expression.expr, functions, kept)
        case promql.BinaryExpr():
            yield from uses(expression.lhs, functions, kept)
            yield from uses(expression.rhs, functions, kept)
        case promql.NumberLiteral() | promql.StringLiteral():
            pass
        case _:
            raise TypeError(f"an expression of a kind that is not looked into: {type(expression).__name__}")


def complaint(use: Use) -> str | None:
    """What is wrong with a selector; None if nothing is."""
    kind = METRIC_NAMES.get(use.series)
    if kind == "counter":
        return None if set(use.functions) & RATES else f"{use.series} is a counter: take its rate"
    if kind == "gauge":
        return f"{use.series} is a gauge and has no rate" if set(use.functions) & RATES else None
    base = next((use.series.removesuffix(end) for end in HISTOGRAM if use.series.endswith(end)), "")
    if METRIC_NAMES.get(base) != "histogram":
        return f"{use.series} is no metric of the server"
    if not set(use.functions) & RATES:
        return f"{use.series} counts: take its rate"
    if "histogram_quantile" in use.functions and not use.series.endswith("_bucket"):
        return f"quantiles are of buckets, not of {use.series}"
    return None


def parsed(expression: str) -> promql.Expr:
    """An expression as Grafana would send it."""
    return promql.parse(expression.replace("$__rate_interval", "1m"))


def dashboard() -> dict[str, Any]:
    content = json.loads(DASHBOARD.read_text())
    assert isinstance(content, dict)
    return content


def panels() -> list[dict[str, Any]]:
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def targets() -> list[dict[str, Any]]:
    return [target for panel in panels() for target in panel["targets"]]


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


EXPRESSIONS = [target["expr"] for target in targets()] + [rule["expr"] for rule in rules()]


@pytest.mark.parametrize(
    ("expression", "problem"),
    [
        ("quire_preemptions_total", "take its rate"),
        ("rate(quire_num_requests_running[1m])", "has no rate"),
        ("quire_no_such_thing", "no metric"),
        ("sum(quire_step_seconds)", "no metric"),
        ("quire_step_seconds_bucket", "take its rate"),
        ("histogram_quantile(0.9, rate(quire_step_seconds_sum[1m]))", "of buckets"),
        ("1 - (quire_engine_ready + quire_nothing)", "no metric"),
    ],
)
def test_the_check_sees_what_is_asked_wrongly(expression: str, problem: str) -> None:
    assert any(problem in (complaint(use) or "") for use in uses(parsed(expression)))


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_every_expression_asks_for_metrics_that_exist_and_suits_their_type(expression: str) -> None:
    found = list(uses(parsed(expression)))
    assert found
    assert [problem for use in found if (problem := complaint(use))] == []
    assert {name for use in found for name in use.functions} <= RATES | OVER_TIME | {
        "absent",
        "histogram_quantile",
    }


@pytest.fixture(scope="module")
def exposed() -> dict[str, set[str]]:
    """Labels of every series that a server shows."""
    engine = FakeEngine()
    scheduler = replace(
        engine.stats.scheduler,
        kv=(PoolUsage(total=4, free=1, used=2, cached=1),),
        drafts=DraftStats(2, 4, 3, 5, (2, 1)),
    )
    engine.stats = replace(engine.stats, scheduler=scheduler)
    service = Service(engine, ServeConfig(), ServerMetrics())
    with TestClient(build_app(service, [ops(service)])) as client:
        client.get("/health")  # so that a request has been counted
        text = client.get("/metrics").text
    families = text_string_to_metric_families(text)
    return {sample.name: set(sample.labels) for family in families for sample in family.samples}


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_every_expression_asks_for_labels_that_a_server_gives(
    expression: str, exposed: dict[str, set[str]]
) -> None:
    for use in uses(parsed(expression)):
        assert use.labels <= exposed[use.series] | ADDED_BY_SCRAPING, use.series


def test_the_dashboard_shows_every_metric_of_the_servers_own() -> None:
    shown = {use.series for target in targets() for use in uses(parsed(target["expr"]))}
    bases = {re.sub(f"({'|'.join(HISTOGRAM)})$", "", name) for name in shown} | shown
    own = {name for name in METRIC_NAMES if name.startswith("quire_")}
    assert own - bases == {"quire_cache_config_info"}  # labels alone: a table would say nothing new


def test_every_panel_looks_at_the_chosen_instances_in_the_chosen_source() -> None:
    for target in targets():
        assert all("instance" in use.labels for use in uses(parsed(target["expr"])))
        assert 'instance=~"$instance"' in target["expr"]
    sources = {json.dumps(part["datasource"]) for part in [*panels(), *targets()]}
    assert sources == {json.dumps({"type": "prometheus", "uid": "${datasource}"})}


def test_a_legend_names_only_labels_that_are_left() -> None:
    for target in targets():
        kept = re.search(r"by \(([^)]*)\)", target["expr"])
        named = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
        assert named <= ({label.strip() for label in kept[1].split(",")} if kept else set())


def test_panels_have_distinct_ids_and_do_not_overlap() -> None:
    every = dashboard()["panels"]
    assert len({panel["id"] for panel in every}) == len(every)
    taken: set[tuple[int, int]] = set()
    for panel in every:
        grid = panel["gridPos"]
        cells = {
            (grid["x"] + column, grid["y"] + line) for column in range(grid["w"]) for line in range(grid["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(column for column, _ in cells) < 24
        taken |= cells


def test_variables_choose_source_model_and_instance() -> None:
    variables = {variable["name"]: variable for variable in dashboard()["templating"]["list"]}
    assert list(variables) == ["datasource", "model_name", "instance"]
    assert variables["datasource"]["query"] == "prometheus"
    for name in ("model_name", "instance"):
        question = LABEL_VALUES.fullmatch(variables[name]["query"]["query"])
        assert question is not None
        selector, label = question.groups()
        assert label == name
        expression = promql.parse(selector)
        assert isinstance(expression, promql.VectorSelector)
        named = [matcher.value for matcher in expression.matchers.matchers if matcher.name == "__name__"]
        names = named[0].split("|") if named else [expression.name]
        assert set(names) <= set(METRIC_NAMES)


def test_alerts_say_what_they_are_about() -> None:
    names = [rule["alert"] for rule in rules()]
    assert len(set(names)) == len(names)
    for rule in rules():
        assert rule["for"]
        assert rule["labels"]["severity"] in {"critical", "warning"}
        assert set(rule["annotations"]) == {"summary", "description"}


def test_every_alert_is_tried_out() -> None:
    tried = (DEPLOY / "prometheus" / "rules_test.yaml").read_text()
    assert [rule["alert"] for rule in rules() if f'alertname="{rule["alert"]}"' not in tried] == []


def test_alerts_fire_when_they_should() -> None:
    tool = shutil.which("promtool")
    if tool is None:
        pytest.skip("promtool, which comes with Prometheus, is not installed")
    command = [tool, "test", "rules", str(DEPLOY / "prometheus" / "rules_test.yaml")]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stdout + run.stderr


def test_the_autoscaler_follows_a_gauge_that_exists() -> None:
    manifest = DEPLOY / "kubernetes" / "base" / "horizontalpodautoscaler.yaml"
    (metric,) = yaml.safe_load(manifest.read_text())["spec"]["metrics"]
    assert METRIC_NAMES[metric["pods"]["metric"]["name"]] == "gauge"
