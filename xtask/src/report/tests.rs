//! A report from a fixed set of results has every plot and no empty section.

use super::{Measured, Section, conclude_html, inspect::inspect, page, sections};
use crate::{
    bench::store::Results,
    experiment::{
        check::Finding,
        figure::{Figure, Kind, Point, Series},
        spec::{self, Experiment},
    },
};

fn figure_for(experiment: &Experiment, index: usize) -> Figure {
    let spec = &experiment.figure[index];
    let places: &[&str] = match spec.kind {
        Kind::Lines => &["1", "2", "4", "10"],
        Kind::Bars => &["null <call>", "IPC & reply", "unmap"],
    };
    let series = |name: &str, factor: f64| Series {
        name: name.into(),
        points: places
            .iter()
            .enumerate()
            .map(|(n, x)| Point { x: (*x).into(), y: factor * (n as f64 + 1.0) })
            .collect(),
    };
    Figure { id: spec.id.clone(), series: vec![series("NUMA <&>", 100.5), series("flat", 70.25)] }
}

fn measured(experiment: &Experiment) -> Measured {
    let figures = (0..experiment.figure.len()).map(|index| figure_for(experiment, index)).collect();
    let finding = |holds| Finding { holds, text: "a < b & c".into() };
    Measured {
        label: String::new(),
        quick: true,
        figures,
        findings: vec![finding(Some(true)), finding(None)],
        runs: Vec::new(),
        failures: vec!["x on 2n2c: <panic>".into()],
    }
}

#[test]
fn every_figure_of_every_experiment_is_drawn() {
    let all = spec::load().unwrap();
    let sections: Vec<Section> = all
        .iter()
        .map(|experiment| Section { experiment, measured: vec![measured(experiment)] })
        .collect();
    let figures: usize = all.iter().map(|experiment| experiment.figure.len()).sum();
    let html = page::render(&sections);
    assert_eq!(inspect(&html).unwrap(), figures);
}

#[test]
fn what_was_not_run_says_so() {
    let all = spec::load().unwrap();
    let html = page::render(&sections(&all, &Results::default(), &[]));
    assert_eq!(inspect(&html).unwrap(), 0);
    assert!(html.contains("cargo xtask bench A7"));
}

#[test]
fn faults_of_a_page_are_found() {
    let all = spec::load().unwrap();
    let experiment = &all[0];
    let section = || Section { experiment, measured: vec![measured(experiment)] };
    let good = page::render(&[section()]);
    assert!(inspect(&good).is_ok());
    let marks = |html: &str| {
        html.split('\n')
            .filter(|line| !line.starts_with("<circle") && !line.starts_with("<rect"))
            .collect::<Vec<_>>()
            .join("\n")
    };
    for (what, bad) in [
        ("not well-formed", good.replacen("</figure>", "", 1)),
        ("no verdict", good.replacen("class=\"verdict", "class=\"", 1)),
        ("no plot", good.replacen("<svg", "<svq", 1).replacen("</svg>", "</svq>", 1)),
        ("nothing drawn", marks(&good)),
        ("not self-contained", good.replacen("</body>", "<p><a href=\"x.js\">x</a></p></body>", 1)),
        ("empty", good.replacen("<blockquote><p>", "<blockquote><p></p><p>", 1)),
    ] {
        assert!(inspect(&bad).is_err(), "{what} was not found");
    }
    let mut empty = section();
    empty.measured[0].figures.iter_mut().for_each(|figure| figure.series.clear());
    assert_eq!(inspect(&page::render(&[empty])).unwrap(), 0, "what is missing is said");
}

/// Results as `bench` writes them: the array walk in both systems, with lines that cross.
fn results() -> Results {
    let mut lines = Vec::new();
    let mut points = Vec::new();
    for (system, start, slope) in [("numa", 60.0, 10.0), ("flat", 40.0, 15.0)] {
        let records: Vec<String> = [1, 2, 4, 8]
            .iter()
            .map(|n| {
                let cycles = (start + slope * f64::from(*n)) * 1e6;
                format!(
                    r#"{{"kind":"roi","name":"walk {system} o=100 n={n}","cpu":0,"n":1,"cycles":{{"sum":{cycles}}},"remote":{n}}}"#
                )
            })
            .collect();
        lines.push(format!(
            r#"{{"kind":"run","point":"{system}","inputs":"{system}","ok":true,"seconds":1,"conditions":{{"git":"abc","machine":"2n2c","caches":"on"}},"records":[{}]}}"#,
            records.join(",")
        ));
        points.push(format!(r#"{{"point":"{system}","inputs":"{system}","params":{{}}}}"#));
    }
    lines.push(format!(
        r#"{{"kind":"plan","experiment":"A7","quick":false,"points":[{}]}}"#,
        points.join(",")
    ));
    Results::parse(&lines.join("\n"))
}

#[test]
fn results_become_figures_and_a_verdict() {
    let all = spec::load().unwrap();
    let results = results();
    let html = conclude_html(&all, &results);
    assert!(inspect(&html).unwrap() >= 2);
    assert!(html.contains("they cross at 4"), "20 million more at the start, 5 less a pass");
    assert!(html.contains("revision</th><td>abc"));
}

#[test]
fn a_serial_log_of_a_machine_enters_the_report() {
    let all = spec::load().unwrap();
    let log = "booting\r\n@json {\"kind\":\"boot\",\"text_replication\":true,\"nr_nodes\":2}\r\n\
        @json {\"kind\":\"result\",\"bench\":\"arraywalk\",\"variant\":\"numa\",\"metric\":\"faults\",\"unit\":\"count\",\
        \"value\":128,\"min\":128,\"max\":128,\"n\":1,\"overlap\":100,\"passes\":1}\r\n";
    let runs = super::hardware::runs(log, "opteron.log");
    assert_eq!(runs.len(), 1);
    assert_eq!(runs[0].conditions["text_replication"], "on");
    let html = page::render(&sections(&all, &Results::default(), &runs));
    assert!(inspect(&html).unwrap() >= 1);
    assert!(html.contains("From opteron.log"));
}

/// A boot record of a machine with two nodes, its switches as given.
fn booted(tcb: bool, text: bool, cache: bool) -> String {
    format!(
        "@json {{\"kind\":\"boot\",\"nr_nodes\":2,\"text_replication\":{text},\"page_table_replication\":true,\
         \"node_pools\":true,\"tcb_migration\":{tcb},\"cache\":{cache},\
         \"hardware_counters\":\"remote and local accesses\"}}\r\n"
    )
}

/// A result as the programs print it.
fn printed(bench: &str, variant: &str, metric: &str, unit: &str, value: u64, more: &str) -> String {
    format!(
        "@json {{\"kind\":\"result\",\"bench\":\"{bench}\",\"variant\":\"{variant}\",\"metric\":\"{metric}\",\
         \"unit\":\"{unit}\",\"value\":{value},\"min\":{value},\"max\":{value},\"n\":32{more}}}\r\n"
    )
}

/// The section of an experiment in what a serial log means.
fn section_of<'a>(all: &'a [Experiment], log: &str, id: &str) -> Section<'a> {
    let runs = super::hardware::runs(log, "opteron.log");
    let mut sections = sections(all, &Results::default(), &runs);
    sections.remove(sections.iter().position(|s| s.experiment.id == id).unwrap())
}

#[test]
fn boots_with_other_switches_become_points_of_one_figure() {
    let all = spec::load().unwrap();
    let mut log = String::new();
    for (tcb, text, cycles) in
        [(false, false, 900), (false, true, 880), (true, false, 890), (true, true, 870)]
    {
        log += &booted(tcb, text, true);
        let case = "migrated to last node";
        log += &printed("pingpong", case, "round trip", "TSC ticks", cycles, ",\"words\":0");
        log += &printed("pingpong", case, "remote", "accesses", 64, ",\"words\":0,\"per\":32");
    }
    let cycles = section_of(&all, &log, "A2");
    assert_eq!(cycles.measured.len(), 1);
    assert_eq!(cycles.measured[0].figures[0].places().len(), 4, "one for each combination");
    assert_eq!(super::verdict_words(&cycles), "shape holds", "{:?}", cycles.measured[0].findings);
    let remote = section_of(&all, &log, "A3");
    let values = remote.measured[0].figures[0].series.iter().flat_map(|line| &line.points);
    let values: Vec<f64> = values.map(|point| point.y).collect();
    assert_eq!(values, [1.0; 4], "64 in 32 round trips of two messages each");
    let conditions = &remote.measured[0].runs[0].conditions;
    assert_eq!(conditions["hardware counters"], "remote and local accesses");
    // What was measured with caches on is nothing for the experiments without.
    assert!(section_of(&all, &log, "A4").measured.is_empty());
    assert!(
        !section_of(&all, &log.replace("\"cache\":true", "\"cache\":false"), "A4")
            .measured
            .is_empty()
    );
}

#[test]
fn what_a_processor_does_not_count_is_said() {
    let all = spec::load().unwrap();
    let mut log = booted(true, true, true);
    let case = "migrated to last node";
    log += &printed("pingpong", case, "round trip", "TSC ticks", 900, ",\"words\":0");
    log += "@json {\"kind\":\"absent\",\"bench\":\"pingpong\",\"metric\":\"remote\",\
            \"counter\":\"remote accesses\",\"why\":\"not known for this processor\",\"cpu\":0}\n";
    let section = section_of(&all, &log, "A2");
    let said = "pingpong: remote accesses were not counted: not known for this processor";
    assert_eq!(section.measured[0].failures, [said]);
    let html = page::render(&[section]);
    inspect(&html).unwrap();
    assert!(html.contains(said));
    assert!(html.contains("TSC cycles") && !html.contains("modelled cycles"));
}

#[test]
fn lines_and_interrupts_of_a_machine_are_judged() {
    let all = spec::load().unwrap();
    let mut log = booted(true, true, true);
    // The source's own numbers, 256 lines each; the two CPUs count as one node.
    for (state, place, ticks) in [
        ("register", "own", 571),
        ("L1 hit", "own", 815),
        ("L1 miss", "own", 2491),
        ("L2 miss", "own", 11462),
        ("E to S", "near", 16902),
        ("E to M", "near", 13212),
        ("M to S", "near", 23482),
        ("M to M", "near", 23448),
        ("S to M", "near", 13211),
    ] {
        let variant = format!("{state} place={place} per=256");
        log += &printed("lines", &variant, "256 lines", "TSC ticks", ticks, "");
    }
    for (what, ticks) in [("delivery", 1030), ("leave", 210), ("enter", 140), ("interrupted", 350)]
    {
        log += &printed("ipi", &format!("{what} place=near"), what, "TSC ticks", ticks, "");
    }
    for id in ["B1", "B2"] {
        let section = section_of(&all, &log, id);
        let found = &section.measured[0].findings;
        assert_eq!(super::verdict_words(&section), "shape holds", "{id}: {found:?}");
        assert!(section.measured[0].figures.iter().all(|figure| !figure.is_empty()));
    }
    // A machine that does otherwise is told so.
    let slow = log.replace("\"value\":210,", "\"value\":900,");
    assert_eq!(super::verdict_words(&section_of(&all, &slow, "B2")), "shape does not hold");
}

#[test]
fn base64_is_the_standards() {
    for (plain, coded) in
        [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")]
    {
        assert_eq!(page::base64(plain.as_bytes()), coded);
    }
}

/// Asks a browser that shows the page what is to be seen there. The markup it gives back has the answer.
const ASK: &str = r#"<script>
const seen = (what, least) => [...document.querySelectorAll(what)].filter(e => {
    const box = e.getBoundingClientRect();
    return box.width > least && box.height > least && box.right <= innerWidth + 1;
}).length;
document.body.setAttribute("data-seen", [seen("section", 40), seen("figure svg", 100)].join(" "));
</script></body>"#;

/// A headless browser, if the host has one. Most have none; the strict parser has to do there.
fn browser(directory: &std::path::Path) -> Option<std::process::Command> {
    use std::process::Command;
    let profile = format!("--user-data-dir={}", directory.join("profile").display());
    let there = |name: &&str| Command::new(name).arg("--version").output().is_ok();
    let name = ["chromium", "google-chrome"].into_iter().find(there)?;
    let mut command = Command::new("timeout");
    command.args(["120", name, "--headless", "--no-sandbox", "--disable-gpu", &profile]);
    command.arg("--window-size=1000,30000");
    Some(command)
}

#[test]
fn a_browser_shows_every_section_and_plot() {
    use std::fs;
    let all = spec::load().unwrap();
    let sections: Vec<Section> = all
        .iter()
        .map(|experiment| Section { experiment, measured: vec![measured(experiment)] })
        .collect();
    let figures: usize = all.iter().map(|experiment| experiment.figure.len()).sum();
    let directory = std::env::temp_dir().join(format!("lokal-report-{}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    let (file, picture) = (directory.join("index.html"), directory.join("page.png"));
    let html = page::render(&sections);
    assert!(html.contains("</body>"));
    fs::write(&file, html.replace("</body>", ASK)).unwrap();
    let address = format!("file://{}", file.display());
    if let (Some(mut dump), Some(mut shot)) = (browser(&directory), browser(&directory)) {
        let dumped = dump.args(["--dump-dom", &address]).output().unwrap();
        assert!(dumped.status.success(), "{}", String::from_utf8_lossy(&dumped.stderr));
        let text = String::from_utf8_lossy(&dumped.stdout);
        let wanted = format!("data-seen=\"{} {figures}\"", all.len());
        let found = text.split("data-seen=").nth(1).map(|rest| &rest[..rest.len().min(20)]);
        assert!(text.contains(&wanted), "{wanted} is to be seen, not {found:?}");
        let shown = shot.args([&format!("--screenshot={}", picture.display()), &address]).output();
        assert!(shown.unwrap().status.success());
        let size = fs::metadata(&picture).unwrap().len();
        assert!(size > 100_000, "a picture of {size} bytes shows next to nothing");
    }
    fs::remove_dir_all(directory).unwrap();
}
