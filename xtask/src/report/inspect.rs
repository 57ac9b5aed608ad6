//! Looks whether a report has all that it should: every section something to read, every plot marks inside its
//! frame and labels on its axes. Parses strictly: the page is XML as well as HTML.

use anyhow::{Context, Result, bail, ensure};
use roxmltree::{Document, Node, ParsingOptions};

/// Checks a page; the first fault is the error. Gives the number of plots.
pub fn inspect(html: &str) -> Result<usize> {
    let options = ParsingOptions { allow_dtd: true, ..ParsingOptions::default() };
    let page =
        Document::parse_with_options(html, options).context("the page is not well-formed")?;
    let mut plots = 0;
    let mut sections = 0;
    for section in page.descendants().filter(|node| node.has_tag_name("section")) {
        sections += 1;
        let name = section.attribute("id").unwrap_or("?").to_string();
        plots += inspect_section(&section).with_context(|| format!("section {name}"))?;
    }
    ensure!(sections > 0, "there is no section");
    for link in page.descendants().filter_map(|node| node.attribute("href")) {
        if let Some(id) = link.strip_prefix('#') {
            let there = page.descendants().any(|node| node.attribute("id") == Some(id));
            ensure!(there, "the link to #{id} leads nowhere");
        } else {
            ensure!(link.starts_with("data:"), "the page needs {link}: it is not self-contained");
        }
    }
    Ok(plots)
}

fn text_of(node: &Node) -> String {
    node.descendants().filter_map(|n| n.text()).collect::<String>().trim().to_string()
}

fn inspect_section(section: &Node) -> Result<usize> {
    let with_class = |class: &str| {
        section
            .descendants()
            .filter(move |n| n.attribute("class").is_some_and(|c| c.split(' ').any(|w| w == class)))
            .count()
    };
    ensure!(section.children().any(|node| node.has_tag_name("h2")), "it has no heading");
    ensure!(with_class("verdict") == 1, "it has {} verdicts", with_class("verdict"));
    for node in section.descendants().filter(|n| n.has_tag_name("p") || n.has_tag_name("td")) {
        ensure!(!node.has_tag_name("p") || !text_of(&node).is_empty(), "it has an empty paragraph");
    }
    let mut plots = 0;
    for figure in section.descendants().filter(|node| node.has_tag_name("figure")) {
        let name = text_of(
            &figure.children().find(|n| n.has_tag_name("figcaption")).context("no caption")?,
        );
        let svg = figure.descendants().find(|n| n.tag_name().name() == "svg");
        inspect_plot(&svg.with_context(|| format!("{name} has no plot"))?)
            .with_context(|| format!("plot of {name}"))?;
        ensure!(figure.descendants().any(|n| n.has_tag_name("table")), "{name} has no table");
        plots += 1;
    }
    if plots == 0 {
        ensure!(with_class("missing") > 0, "it has no plot and does not say why");
    }
    Ok(plots)
}

fn inspect_plot(svg: &Node) -> Result<()> {
    let size = |name: &str| -> Result<f64> {
        svg.attribute(name).and_then(|s| s.parse().ok()).with_context(|| format!("no {name}"))
    };
    let (width, height) = (size("width")?, size("height")?);
    let mut marks = 0;
    let mut labels = 0;
    for node in svg.descendants().filter(Node::is_element) {
        let number = |name: &str| node.attribute(name).and_then(|s| s.parse::<f64>().ok());
        let (x, y) = match node.tag_name().name() {
            "circle" => (number("cx"), number("cy")),
            "rect" => (number("x"), number("y")),
            "text" => {
                labels += usize::from(!text_of(&node).is_empty());
                (number("x"), number("y"))
            }
            _ => continue,
        };
        let (Some(x), Some(y)) = (x, y) else { bail!("a {} is nowhere", node.tag_name().name()) };
        ensure!(
            (0.0..=width).contains(&x) && (0.0..=height).contains(&y),
            "a {} at {x},{y} lies outside of {width}x{height}",
            node.tag_name().name()
        );
        marks += usize::from(node.tag_name().name() != "text");
    }
    ensure!(marks > 0, "nothing is drawn");
    // The names of both axes at least.
    ensure!(labels >= 2, "it has {labels} labels");
    Ok(())
}
