//! The page: one file, readable in a terminal browser and on paper, valid as HTML and as XML.

use super::{Measured, Section, decisive, plot, verdict_words};
use crate::experiment::{
    Run,
    check::{Finding, show},
    figure::{Figure, FigureSpec},
    spec::Experiment,
};
use serde_json::json;
use std::{collections::BTreeSet, fmt::Write};

const STYLE: &str = "
body { font: 16px/1.5 Georgia, serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #111; background: #fff; }
h1, h2, h3, th, figcaption, nav, .verdict { font-family: 'Helvetica Neue', Arial, sans-serif; }
h2 { border-top: 1px solid #ccc; padding-top: 1.2rem; margin-top: 2.5rem; }
table { border-collapse: collapse; margin: .6rem 0; font-size: .9rem; }
th, td { border: 1px solid #ccc; padding: .2rem .55rem; text-align: left; vertical-align: top; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
figure { margin: 1.5rem 0; } figure svg { max-width: 100%; height: auto; }
figcaption { font-weight: bold; }
blockquote { margin: .8rem 0; padding: .2rem 1rem; border-left: 4px solid #999; }
.verdict { font-weight: bold; } .holds { color: #00684b; } .not { color: #a33b00; } .open { color: #555; }
.missing { border: 1px dashed #999; padding: .3rem .8rem; }
summary { cursor: pointer; } code { font-size: .9em; overflow-wrap: anywhere; }
@media print { nav, details, .download { display: none; } body { max-width: none; font-size: 11pt; }
  figure, table { break-inside: avoid; } h2 { break-after: avoid; } }
";

/// The whole page.
pub fn render(sections: &[Section]) -> String {
    let mut out =
        String::from("<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n");
    out += "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n";
    let _ =
        write!(out, "<title>Lokal: experiments</title>\n<style>{STYLE}</style>\n</head>\n<body>\n");
    out += "<h1>Lokal: experiments</h1>\n";
    out += "<p>What the source documents measured, measured again. Emulated time is not real time: under the \
        placement instrument, accesses, instructions, interrupts and faults are counted exactly, and cycles are \
        those of a simple model (one cycle an instruction, plus the latency of what served each access). Counts \
        and ratios mean something; absolute times do not.</p>\n";
    conditions(&mut out, sections);
    contents(&mut out, sections);
    for section in sections {
        one(&mut out, section);
    }
    out += "</body>\n</html>\n";
    out
}

/// Text in the page.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn class(section: &Section) -> &'static str {
    match verdict_words(section) {
        "shape holds" => "holds",
        "shape does not hold" => "not",
        _ => "open",
    }
}

/// What all measurements have in common, or the several values.
fn conditions(out: &mut String, sections: &[Section]) {
    let runs: Vec<&Run> = sections.iter().flat_map(|s| &s.measured).flat_map(|m| &m.runs).collect();
    *out += "<h2 id=\"conditions\">Conditions</h2>\n<table>\n";
    for (name, title) in [
        ("git", "revision"),
        ("profile", "build"),
        ("machine", "machines"),
        ("emulator", "emulator"),
        ("instrument", "instrument"),
        ("file", "logs"),
    ] {
        let values: BTreeSet<&str> =
            runs.iter().filter_map(|run| run.conditions.get(name)).map(String::as_str).collect();
        if !values.is_empty() {
            let values: Vec<&str> = values.into_iter().collect();
            let _ = writeln!(
                out,
                "<tr><th scope=\"row\">{title}</th><td>{}</td></tr>",
                escape(&values.join(", "))
            );
        }
    }
    let quick = sections.iter().flat_map(|s| &s.measured).filter(|m| m.quick).count();
    let _ = writeln!(
        out,
        "<tr><th scope=\"row\">runs</th><td>{} boots; {quick} of the experiments with fewer points (--quick). A \
         revision that ends with -dirty had changes that are in no commit.</td></tr>\n</table>",
        runs.len()
    );
}

/// The table of contents, which is the headline table.
fn contents(out: &mut String, sections: &[Section]) {
    *out += "<nav>\n<h2 id=\"contents\">Results</h2>\n<table>\n<thead><tr><th scope=\"col\"></th>\
        <th scope=\"col\">experiment</th><th scope=\"col\">verdict</th><th scope=\"col\">by</th></tr></thead>\n<tbody>\n";
    for section in sections {
        let Experiment { id, title, .. } = section.experiment;
        let _ = writeln!(
            out,
            "<tr><td>{id}</td><td><a href=\"#{id}\">{}</a></td><td class=\"{}\">{}</td><td>{}</td></tr>",
            escape(title),
            class(section),
            verdict_words(section),
            escape(&decisive(section)),
        );
    }
    *out += "</tbody>\n</table>\n</nav>\n";
}

fn paragraph(out: &mut String, class: &str, title: &str, text: &str) {
    if !text.trim().is_empty() {
        let _ = writeln!(
            out,
            "<p class=\"{class}\"><strong>{title}</strong> {}</p>",
            escape(text.trim())
        );
    }
}

fn one(out: &mut String, section: &Section) {
    let experiment = section.experiment;
    let _ = writeln!(
        out,
        "<section id=\"{}\">\n<h2>{} {}</h2>",
        experiment.id,
        experiment.id,
        escape(&experiment.title)
    );
    let _ = writeln!(
        out,
        "<blockquote><p>{} <em>({})</em></p></blockquote>",
        escape(experiment.statement.trim()),
        escape(&experiment.source)
    );
    let _ = writeln!(
        out,
        "<p class=\"verdict {}\">Verdict: {}.</p>",
        class(section),
        verdict_words(section)
    );
    if class(section) == "not" {
        paragraph(out, "reason", "Why:", &experiment.reason);
    }
    paragraph(out, "note", "Note:", &experiment.note);
    if section.measured.is_empty() {
        let _ = writeln!(
            out,
            "<p class=\"missing\">Not run yet: <code>cargo xtask bench {}</code> runs it.</p>",
            experiment.id
        );
    }
    for measured in &section.measured {
        results(out, experiment, measured);
    }
    *out += "</section>\n";
}

fn results(out: &mut String, experiment: &Experiment, measured: &Measured) {
    if !measured.label.is_empty() {
        let _ = writeln!(
            out,
            "<h3>From {}: {}</h3>",
            escape(&measured.label),
            measured.verdict().words()
        );
    }
    findings(out, &measured.findings);
    if !measured.failures.is_empty() {
        *out += "<div class=\"missing\"><p>Without a result:</p><ul>\n";
        for failure in &measured.failures {
            let _ = writeln!(out, "<li>{}</li>", escape(failure));
        }
        *out += "</ul></div>\n";
    }
    for (spec, figure) in experiment.figure.iter().zip(&measured.figures) {
        let mut spec = spec.clone();
        if !measured.label.is_empty() {
            // Nothing is modelled on a real machine: what the programs' clock says stands there.
            spec.y_label = spec.y_label.replace("modelled cycles", "TSC cycles");
        }
        draw(out, experiment, &spec, figure);
    }
    runs(out, experiment, &measured.runs);
}

fn findings(out: &mut String, findings: &[Finding]) {
    if findings.is_empty() {
        return;
    }
    *out += "<table>\n<thead><tr><th scope=\"col\">rule and numbers</th><th scope=\"col\">holds</th></tr></thead>\n<tbody>\n";
    for finding in findings {
        let holds = match finding.holds {
            Some(true) => "yes",
            Some(false) => "no",
            None => "not decided",
        };
        let _ = writeln!(out, "<tr><td>{}</td><td>{holds}</td></tr>", escape(&finding.text));
    }
    *out += "</tbody>\n</table>\n";
}

fn draw(out: &mut String, experiment: &Experiment, spec: &FigureSpec, figure: &Figure) {
    let caption = format!("Figure {}: {}", figure.id, spec.title);
    if figure.is_empty() {
        let _ = writeln!(
            out,
            "<p class=\"missing\">{}: there are no results for it.</p>",
            escape(&caption)
        );
        return;
    }
    let plot = plot::svg(spec, figure).unwrap_or_else(|error| {
        format!("<p class=\"missing\">cannot be drawn: {}</p>", escape(&error.to_string()))
    });
    let _ = writeln!(out, "<figure>\n<figcaption>{}</figcaption>\n{plot}", escape(&caption));
    let data = json!({"experiment": experiment.id, "figure": figure, "x": spec.x_label, "y": spec.y_label});
    *out += "<details>\n<summary>Numbers</summary>\n";
    table(out, spec, figure);
    let _ = writeln!(
        out,
        "<p class=\"download\"><a download=\"{}-{}.json\" href=\"data:application/json;base64,{}\">as JSON</a></p>\n</details>\n</figure>",
        experiment.id,
        escape(&figure.id),
        base64(data.to_string().as_bytes())
    );
}

fn table(out: &mut String, spec: &FigureSpec, figure: &Figure) {
    let _ = write!(
        out,
        "<table>\n<caption>{}</caption>\n<thead><tr><th scope=\"col\">{}</th>",
        escape(&spec.y_label),
        escape(&spec.x_label)
    );
    for series in &figure.series {
        let _ = write!(out, "<th scope=\"col\">{}</th>", escape(&series.name));
    }
    *out += "</tr></thead>\n<tbody>\n";
    for place in figure.places() {
        let _ = write!(out, "<tr><th scope=\"row\">{}</th>", escape(&place));
        for series in &figure.series {
            let value = series.at(&place).map_or("not measured".to_string(), show);
            let _ = write!(out, "<td class=\"number\">{value}</td>");
        }
        *out += "</tr>\n";
    }
    *out += "</tbody>\n</table>\n";
}

/// The boots behind the figures, and all that they printed.
fn runs(out: &mut String, experiment: &Experiment, runs: &[Run]) {
    if runs.is_empty() {
        return;
    }
    let _ = writeln!(
        out,
        "<details>\n<summary>{} boots, conditions and raw data</summary>",
        runs.len()
    );
    *out += "<table>\n<thead><tr><th scope=\"col\">boot</th><th scope=\"col\">conditions</th>\
        <th scope=\"col\">records</th></tr></thead>\n<tbody>\n";
    let mut raw = String::new();
    for run in runs {
        let words: Vec<String> = run
            .conditions
            .iter()
            .filter(|(name, value)| name.as_str() != "manifest" && !value.is_empty())
            .map(|(name, value)| format!("{name}: {value}"))
            .collect();
        let _ = writeln!(
            out,
            "<tr><td>{}</td><td>{}</td><td class=\"number\">{}</td></tr>",
            escape(&run.point),
            escape(&words.join("; ")),
            run.records.len()
        );
        if let Ok(line) = serde_json::to_string(run) {
            raw += &line;
            raw.push('\n');
        }
    }
    let _ = writeln!(
        out,
        "</tbody>\n</table>\n<p class=\"download\"><a download=\"{}.jsonl\" href=\"data:application/jsonl;base64,{}\">All records as JSON lines</a></p>\n</details>",
        experiment.id,
        base64(raw.as_bytes())
    );
}

/// RFC 4648, section 4.
pub fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0u32, |word, byte| word << 8 | u32::from(*byte))
            << (8 * (3 - chunk.len()));
        for digit in 0..4 {
            match digit <= chunk.len() {
                true => out.push(char::from(DIGITS[(word >> (18 - 6 * digit) & 63) as usize])),
                false => out.push('='),
            }
        }
    }
    out
}
