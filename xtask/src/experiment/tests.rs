//! Every rule with made-up results where the shape holds and where it does not; observations from records.

use super::{
    Params, Run,
    check::{self, Check, Finding, Verdict},
    figure::{self, Figure, FigureSpec, Point, Series},
    observe, spec,
};
use serde_json::json;

fn line(name: &str, points: &[(&str, f64)]) -> Series {
    let points = points.iter().map(|(x, y)| Point { x: (*x).into(), y: *y });
    Series { name: name.into(), points: points.collect() }
}

fn figure(series: &[Series]) -> Figure {
    Figure { id: "f".into(), series: series.to_vec() }
}

fn check(text: &str) -> Check {
    toml::from_str(&format!("figure = \"f\"\n{text}")).unwrap()
}

fn judge(text: &str, series: &[Series]) -> Option<bool> {
    check(text).judge(&[figure(series)]).holds
}

#[test]
fn equality_is_a_factor_at_each_place() {
    let rule = "rule = \"equal\"\nwithin = 1.1";
    let a = line("a", &[("1", 100.0), ("2", 50.0)]);
    assert_eq!(judge(rule, &[a.clone(), line("b", &[("1", 105.0), ("2", 50.0)])]), Some(true));
    assert_eq!(judge(rule, &[a.clone(), line("b", &[("1", 100.0), ("2", 56.0)])]), Some(false));
    assert_eq!(judge(rule, &[line("a", &[("1", 0.0)]), line("b", &[("1", 0.0)])]), Some(true));
    assert_eq!(judge(rule, &[line("a", &[("1", 0.0)]), line("b", &[("1", 3.0)])]), Some(false));
    assert_eq!(judge(rule, &[a]), None, "nothing to compare with");
}

#[test]
fn ranges_hold_for_all_values() {
    let rule = "rule = \"range\"\nat_least = 1\nat_most = 2";
    assert_eq!(judge(rule, &[line("a", &[("1", 1.0), ("2", 2.0)])]), Some(true));
    assert_eq!(judge(rule, &[line("a", &[("1", 1.0), ("2", 2.1)])]), Some(false));
    assert_eq!(judge(rule, &[line("a", &[("1", 0.9)])]), Some(false));
    let zero = "rule = \"range\"\nseries = \"b\"\nat_most = 0";
    assert_eq!(judge(zero, &[line("a", &[("1", 9.0)]), line("b", &[("1", 0.0)])]), Some(true));
    assert_eq!(judge(zero, &[line("a", &[("1", 0.0)])]), None);
}

#[test]
fn ratios_of_series_and_of_places() {
    let (a, b) = (line("a", &[("1", 14.0), ("2", 28.0)]), line("b", &[("1", 10.0), ("2", 20.0)]));
    let rule = "rule = \"ratio\"\na = \"a\"\nb = \"b\"\nat_least = 1.3\nat_most = 1.5";
    assert_eq!(judge(rule, &[a.clone(), b.clone()]), Some(true));
    assert_eq!(judge(rule, &[b.clone(), line("a", &[("1", 14.0), ("2", 20.0)])]), Some(false));
    let first = format!("{rule}\nplaces = [\"1\"]");
    assert_eq!(judge(&first, &[b.clone(), line("a", &[("1", 14.0), ("2", 20.0)])]), Some(true));
    assert_eq!(judge(&format!("{rule}\nplaces = [\"3\"]"), &[a.clone(), b]), None);
    let places = "rule = \"places\"\na = \"2\"\nb = \"1\"\nat_least = 2";
    assert_eq!(judge(places, std::slice::from_ref(&a)), Some(true));
    assert_eq!(judge(places, &[line("a", &[("1", 14.0), ("2", 20.0)])]), Some(false));
    assert_eq!(judge(places, &[line("a", &[("1", 14.0)])]), None);
}

#[test]
fn falling_is_strict() {
    let rule = "rule = \"falling\"\nplaces = [\"none\", \"one\", \"both\"]\nby = 1.2";
    let of = |values: [f64; 3]| {
        line("a", &[("both", values[2]), ("none", values[0]), ("one", values[1])])
    };
    assert_eq!(judge(rule, &[of([100.0, 50.0, 10.0])]), Some(true));
    assert_eq!(judge(rule, &[of([100.0, 90.0, 10.0])]), Some(false), "not by enough");
    assert_eq!(judge(rule, &[of([100.0, 50.0, 60.0])]), Some(false));
    assert_eq!(judge(rule, &[of([0.0, 0.0, 0.0])]), Some(false), "nothing falls");
    assert_eq!(judge(rule, &[line("a", &[("none", 1.0)])]), None);
}

#[test]
fn lines_cross_where_interpolation_says() {
    let flat = line("flat", &[("1", 10.0), ("2", 20.0), ("3", 30.0), ("4", 40.0)]);
    let numa = line("numa", &[("1", 14.0), ("2", 21.0), ("3", 29.0), ("4", 36.0)]);
    let rule = "rule = \"cross\"\na = \"numa\"\nb = \"flat\"";
    let found = check(rule).judge(&[figure(&[flat.clone(), numa.clone()])]);
    assert_eq!(found.holds, Some(true));
    assert!(found.text.ends_with("they cross at 2.50"), "{}", found.text);
    let late = format!("{rule}\nfrom = 3");
    assert_eq!(judge(&late, &[flat.clone(), numa.clone()]), Some(false));
    let never = line("numa", &[("1", 14.0), ("4", 41.0)]);
    assert_eq!(judge(rule, &[flat.clone(), never]), Some(false));
    let always = line("numa", &[("1", 9.0), ("4", 39.0)]);
    assert_eq!(judge(rule, &[flat, always]), Some(false), "it has to begin above");
    assert_eq!(judge(rule, &[numa]), None);
}

#[test]
fn flat_and_linear() {
    let level = line("a", &[("2", 100.0), ("4", 101.0), ("8", 102.0)]);
    let rise = line("a", &[("1", 10.0), ("2", 20.0), ("3", 31.0), ("4", 40.0)]);
    let bent = line("a", &[("1", 10.0), ("2", 40.0), ("3", 41.0), ("4", 10.0)]);
    assert_eq!(judge("rule = \"flat\"\nwithin = 1.05", std::slice::from_ref(&level)), Some(true));
    assert_eq!(judge("rule = \"flat\"\nwithin = 1.05", std::slice::from_ref(&rise)), Some(false));
    assert_eq!(judge("rule = \"flat\"\nwithin = 1.05", &[line("a", &[("1", 1.0)])]), None);
    let linear = "rule = \"linear\"\nseries = \"a\"\nr2 = 0.98";
    assert_eq!(judge(linear, &[rise]), Some(true));
    assert_eq!(judge(linear, &[bent]), Some(false));
    let falls = line("a", &[("1", 30.0), ("2", 20.0), ("3", 10.0)]);
    assert_eq!(judge(linear, &[falls]), Some(false), "a falling line does not grow");
    assert_eq!(judge(linear, &[line("a", &[("1", 1.0)])]), None);
}

#[test]
fn numbers_are_shown_for_people() {
    let shown = [-0.0, 0.0, 0.0019, 0.5, 2.0, 76.25, 100.0, 123.45, 23974.3].map(check::show);
    assert_eq!(shown, ["0", "0", "0.0019", "0.50", "2", "76.25", "100", "123.5", "23974"]);
}

#[test]
fn growth_leaves_the_start_out() {
    let rule = "rule = \"growth\"\na = \"a\"\nb = \"b\"\nat_most = 0.02";
    let b = line("b", &[("1", 50.0), ("4", 150.0)]);
    assert_eq!(judge(rule, &[line("a", &[("1", 40.0), ("4", 41.0)]), b.clone()]), Some(true));
    assert_eq!(judge(rule, &[line("a", &[("1", 0.0), ("4", 50.0)]), b.clone()]), Some(false));
    assert_eq!(judge(rule, &[line("a", &[("1", 0.0)]), b.clone()]), None);
    let level = line("b", &[("1", 50.0), ("4", 50.0)]);
    assert_eq!(judge(rule, &[line("a", &[("1", 0.0), ("4", 1.0)]), level]), Some(false));
}

#[test]
fn values_stay_under_a_line() {
    let rule = "rule = \"at_most_line\"\nslope = 1.0\noffset = -1.0";
    assert_eq!(judge(rule, &[line("a", &[("1", 0.0), ("2", 1.0), ("4", 2.0)])]), Some(true));
    assert_eq!(judge(rule, &[line("a", &[("1", 0.0), ("2", 1.5)])]), Some(false));
    assert_eq!(judge(rule, &[line("a", &[])]), None);
}

#[test]
fn verdicts_need_all_checks_and_all_numbers() {
    let of = |holds| Finding { holds, text: String::new() };
    assert_eq!(Verdict::of(&[of(Some(true)), of(Some(true))]), Verdict::Holds);
    assert_eq!(Verdict::of(&[of(None), of(Some(false))]), Verdict::Not);
    assert_eq!(Verdict::of(&[of(None), of(Some(true))]), Verdict::Undecided);
    assert_eq!(Verdict::of(&[]), Verdict::Undecided);
    assert_eq!(check("rule = \"flat\"\nwithin = 1").judge(&[]).holds, None);
}

/// A run with one region on two CPUs and a result.
fn run(region: &str) -> Run {
    let roi = |cpu: u64, cycles: u64| {
        let bank = |remote: u64| json!({"fetch": {"remote": remote}, "data": {"remote": 2 * remote}, "walk": {"remote": 0}});
        json!({"kind": "roi", "name": region, "cpu": cpu, "n": 2, "cycles": {"sum": cycles}, "remote": 24,
            "irq": {"14": 6, "64": 4}, "kernel": bank(4), "user": bank(4), "path": {"n": 2, "cycles": {"sum": 40}}})
    };
    let result = json!({"kind": "result", "bench": "b", "variant": "walk numa", "metric": "faults", "unit": "count",
        "value": 128, "min": 128, "max": 128, "n": 1, "overlap": 100, "machine": "2n2c"});
    let cycles = json!({"kind": "result", "bench": "b", "variant": region, "metric": "cycles", "unit": "cycles", "value": 9});
    let never = json!({"kind": "roi", "name": "never", "cpu": 0, "n": 0});
    let records = [roi(0, 100), roi(1, 300), result, cycles, never];
    Run {
        kind: "run".into(),
        point: "p".into(),
        inputs: "i".into(),
        ok: true,
        error: String::new(),
        seconds: 1.0,
        conditions: [("machine".to_string(), "2n2c".to_string())].into(),
        records: records.iter().map(|r| r.as_object().unwrap().clone()).collect(),
    }
}

#[test]
fn observations_are_per_repetition_and_carry_all_parameters() {
    let point: Params = [("tcb".to_string(), "on".to_string())].into();
    let found = observe::observations(&run("call place=same words=0 per=5"), &point);
    assert_eq!(found.len(), 3, "the program's clock and what never occurred are left out");
    let first = &found[0];
    for (name, value) in
        [("region", "call"), ("place", "same"), ("tcb", "on"), ("cpu", "0"), ("machine", "2n2c")]
    {
        assert_eq!(first.params[name], value);
    }
    for (name, value) in [
        ("cycles", 10.0),
        ("remote", 2.4),
        ("remote_kernel", 1.2),
        ("remote_fetch", 0.8),
        ("interrupts", 0.4),
        ("page_faults", 0.6),
        ("path_cycles", 4.0),
        ("remote_walk", 0.0),
    ] {
        assert!((first.metrics[name] - value).abs() < 1e-9, "{name}: {}", first.metrics[name]);
    }
    assert_eq!(found[2].metrics["faults"], 128.0);
    assert_eq!(
        (found[2].params["overlap"].as_str(), found[2].params["region"].as_str()),
        ("100", "walk numa")
    );
    assert!(!found[2].params.contains_key("git"));
    for (name, region, key, value) in [
        ("same cpu, 8 words", "same cpu", "words", "8"),
        ("unmap 1 pages, active on 2 of 4 CPUs", "unmap 1 pages", "active", "2"),
        ("fault, same cpu", "fault, same cpu", "region", "fault, same cpu"),
    ] {
        let found = &observe::observations(&run(name), &point)[0];
        assert_eq!((found.params["region"].as_str(), found.params[key].as_str()), (region, value));
    }
    let mut hardware = run("call");
    hardware.records.retain(|record| record["kind"] == "result");
    assert_eq!(
        observe::observations(&hardware, &point).len(),
        2,
        "there the program's clock is what there is"
    );
}

#[test]
fn figures_are_filtered_grouped_and_joined() {
    let spec: FigureSpec = toml::from_str(
        r#"id = "1"
        title = "t"
        x = "n"
        x_label = "passes"
        y = "cycles"
        y_label = "cycles"
        series = ["region"]
        filter = { region = ["walk numa", "walk flat"] }
        names = { "walk numa" = "NUMA" }
        over = "max"
        scale = 0.5"#,
    )
    .unwrap();
    let observations: Vec<_> = ["walk numa n=10", "walk numa n=2", "walk flat n=2", "other n=1"]
        .iter()
        .flat_map(|region| observe::observations(&run(region), &Params::new()))
        .collect();
    let figure = figure::build(&spec, &observations);
    assert_eq!(
        figure.series,
        [line("NUMA", &[("2", 75.0), ("10", 75.0)]), line("walk flat", &[("2", 75.0)]),]
    );
    assert_eq!(figure.places(), ["2", "10"]);
    let mut sum = spec.clone();
    sum.over = figure::Over::Sum;
    sum.y = figure::OneOrMany::Many(vec!["cycles".into(), "remote".into()]);
    let figure = figure::build(&sum, &observations);
    assert_eq!(figure.series[0], line("NUMA, cycles", &[("2", 100.0), ("10", 100.0)]));
    assert_eq!(figure.series[1], line("NUMA, remote", &[("2", 12.0), ("10", 12.0)]));
}

const EXPERIMENT: &str = r#"
id = "X1"
name = "x"
title = "t"
source = "s"
statement = "s"
[[run]]
program = "hello"
place = "task"
options = "tcb_migration={tcb}"
args = ["passes={n}"]
manifest = { numa = "{numa}", pool = 64 }
matrix = { tcb = ["on", "off"], n = [1, 2, 3], numa = ["flat"] }
quick = { n = [2] }
"#;

#[test]
fn a_matrix_is_all_combinations() {
    let experiment = spec::parse(EXPERIMENT).unwrap();
    let all = experiment.points(false, None).unwrap();
    assert_eq!(all.len(), 6);
    let quick = experiment.points(true, Some("4n8c")).unwrap();
    assert_eq!(quick.len(), 2);
    let first = &quick[0];
    assert_eq!((first.machine.as_str(), first.params["n"].as_str()), ("4n8c", "2"));
    let manifest = first.manifest.as_deref().unwrap();
    assert!(manifest.contains("numa = \"flat\"") && manifest.contains("passes=2"), "{manifest}");
    assert!(manifest.contains("pool = 64"));
    let keys: std::collections::BTreeSet<String> = all.iter().map(spec::Point::key).collect();
    assert_eq!(keys.len(), 6, "points are told apart");
}

#[test]
fn mistakes_in_files_are_found() {
    for (from, to) in [
        ("matrix = {", "matrix = { x = 1,"),
        ("quick = { n = [2] }", "quick = { m = [2] }"),
        ("options", "option"),
        ("place = \"task\"", "caches = \"warm\""),
    ] {
        assert!(spec::parse(&EXPERIMENT.replace(from, to)).is_err(), "{to}");
    }
    let check = "[[check]]\nrule = \"flat\"\nfigure = \"none\"\nwithin = 1.0";
    assert!(spec::parse(&format!("{EXPERIMENT}{check}")).is_err());
}

#[test]
fn the_files_are_right() {
    let all = spec::load().unwrap();
    assert!(!all.is_empty());
    for experiment in &all {
        assert!(!experiment.figure.is_empty() && !experiment.check.is_empty(), "{}", experiment.id);
        for point in experiment.points(true, None).unwrap() {
            crate::machines::Machine::load(&point.machine).unwrap();
        }
        for point in experiment.points(false, None).unwrap() {
            crate::machines::Machine::load(&point.machine).unwrap();
        }
    }
}
