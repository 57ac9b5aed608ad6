//! Results as JSON lines: one `sim` line about the run, then one `roi` line per region and CPU that
//! took part, then `shared`, `probe` and `remote` lines. Nothing in them depends on the host, so two runs of
//! the same guest are identical byte for byte. `docs/design/instrument.md` explains the fields.

use crate::{
    counters::{Class, Count, Counters, KERNEL, USER},
    region::{Region, Slot, Spread, touch},
    sim::Sim,
};
use std::fmt::Write;

/// Most lines that a CPU shares in a region that are listed.
const MOST_SHARED: usize = 32;

/// Ways of touching a line.
const HOW: [(&str, u8); 3] =
    [("code", touch::CODE), ("read", touch::READ), ("written", touch::WRITTEN)];

/// A JSON object under construction. Keys are written as given: none needs escaping.
struct Object(String);

impl Object {
    fn new() -> Object {
        Object(String::from("{"))
    }

    fn raw(&mut self, key: &str, value: &str) -> &mut Self {
        if self.0.len() > 1 {
            self.0.push(',');
        }
        // Writing to a `String` cannot fail.
        let _ = write!(self.0, "\"{key}\":{value}");
        self
    }

    fn number(&mut self, key: &str, value: u64) -> &mut Self {
        self.raw(key, &value.to_string())
    }

    fn text(&mut self, key: &str, value: &str) -> &mut Self {
        let quoted = quote(value);
        self.raw(key, &quoted)
    }

    fn end(&mut self) -> String {
        let mut out = std::mem::take(&mut self.0);
        out.push('}');
        out
    }
}

fn quote(text: &str) -> String {
    let mut out = String::from("\"");
    for ch in text.chars() {
        match ch {
            '"' | '\\' => out.extend(['\\', ch]),
            c if (c as u32) < 0x20 => {
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

fn list(values: impl IntoIterator<Item = u64>) -> String {
    let words: Vec<String> = values.into_iter().map(|v| v.to_string()).collect();
    format!("[{}]", words.join(","))
}

fn spread(s: &Spread) -> String {
    Object::new().number("sum", s.sum).number("min", s.min).number("max", s.max).end()
}

impl Sim {
    /// All results, as JSON lines.
    #[must_use]
    pub fn report(&self) -> String {
        let mut out = self.run_line();
        out.push('\n');
        for region in &self.regions.list {
            for cpu in 0..self.cpus.len() {
                if let Some(slot) = &region.slots[cpu]
                    && slot.cycles.n > 0
                {
                    out.push_str(&self.region_line(region, slot, cpu));
                    out.push('\n');
                }
            }
        }
        if self.config().trace_remote {
            self.shared_lines(&mut out);
        }
        for (id, cpu, clock, done) in &self.probes {
            let mut o = Object::new();
            o.text("kind", "probe").number("id", u64::from(*id)).number("cpu", *cpu as u64);
            o.number("clock", *clock).number("kernel", done[KERNEL]).number("user", done[USER]);
            out.push_str(&o.end());
            out.push('\n');
        }
        for (key, count) in &self.remote {
            let region = &self.regions.list[key.region];
            let mut o = Object::new();
            o.text("kind", "remote").number("id", u64::from(region.id)).text("name", &region.name);
            o.number("cpu", key.cpu as u64).text("class", Class::ALL[key.class].name());
            o.text("pc", &format!("{:#x}", key.pc)).text("address", &format!("{:#x}", key.address));
            o.number("home", key.home as u64).number("count", *count);
            out.push_str(&o.end());
            out.push('\n');
        }
        out
    }

    /// For every line that the kernel shares between CPUs in a region: what touched it first, for each way of touching it.
    fn shared_lines(&self, out: &mut String) {
        for region in
            self.regions.list.iter().filter(|region| region.slots.iter().flatten().count() > 1)
        {
            for (cpu, slot) in region.slots.iter().enumerate() {
                let Some(slot) = slot else { continue };
                let lines = self.regions.shared_written(region, cpu);
                for &(line, _) in lines.iter().take(MOST_SHARED) {
                    for (name, how) in HOW {
                        let Some(by) = slot.first.get(&(line, how)) else { continue };
                        let mut o = Object::new();
                        o.text("kind", "shared").number("id", u64::from(region.id));
                        o.text("name", &region.name).number("cpu", cpu as u64).text("how", name);
                        o.text("pc", &format!("{:#x}", by.pc));
                        o.text("address", &format!("{:#x}", by.address));
                        o.text("line", &format!("{:#x}", u64::from(line) * crate::LINE));
                        out.push_str(&o.end());
                        out.push('\n');
                    }
                }
            }
        }
    }

    fn run_line(&self) -> String {
        let config = self.config();
        let lat = &config.latency;
        let mut o = Object::new();
        o.text("kind", "sim").text("caches", config.mode().name());
        o.raw("finished", if self.finished() { "true" } else { "false" });
        o.raw("cpu_node", &list(config.cpu_node.iter().map(|&n| n as u64)));
        o.raw("memory", &list(config.memory.iter().copied()));
        let rows: Vec<String> =
            config.distance.iter().map(|row| list(row.iter().copied())).collect();
        o.raw("distance", &format!("[{}]", rows.join(",")));
        let mut l = Object::new();
        for (name, value) in [
            ("l1", lat.l1),
            ("l2", lat.l2),
            ("l3", lat.l3),
            ("memory", lat.memory),
            ("c2c_near", lat.c2c_near),
            ("c2c_far", lat.c2c_far),
            ("upgrade", lat.upgrade),
            ("ipi", lat.ipi),
            ("io", lat.io),
        ] {
            l.number(name, value);
        }
        o.raw("latency", &l.end()).number("quantum", config.quantum);
        let c = &self.checks;
        let mut checks = Object::new();
        for (name, value) in [
            ("hellos", c.hellos),
            ("hellos_wrong", c.hellos_wrong),
            ("places", c.places),
            ("places_wrong", c.places_wrong),
            ("walks", c.walks),
            ("walks_wrong", c.walks_wrong),
            ("untranslated", c.untranslated),
            ("fetch_unknown", c.fetch_unknown),
        ] {
            checks.number(name, value);
        }
        o.raw("checks", &checks.end());
        let mistakes: Vec<String> = self.regions.mistakes.iter().map(|m| quote(m)).collect();
        o.raw("mistakes", &format!("[{}]", mistakes.join(",")));
        let total = |bank| self.cpus.iter().map(move |c| c.counters.get(bank, Count::Instructions));
        o.raw("kernel_instructions", &list(total(KERNEL)));
        o.raw("user_instructions", &list(total(USER)));
        o.raw("clocks", &list(self.cpus.iter().map(|c| c.clock)));
        o.end()
    }

    fn region_line(&self, region: &Region, slot: &Slot, cpu: usize) -> String {
        let node = self.cpus[cpu].node;
        let mut o = Object::new();
        o.text("kind", "roi").number("id", u64::from(region.id)).text("name", &region.name);
        o.raw("values", &list(region.values.iter().copied()));
        let number = self.cpus[cpu].guest_number.unwrap_or(cpu as u64);
        o.number("cpu", number).number("vcpu", cpu as u64).number("node", node as u64);
        o.text("caches", self.config().mode().name()).number("n", slot.cycles.n);
        o.raw("cycles", &spread(&slot.cycles)).number("waited", slot.waited);
        o.raw("instr_kernel", &spread(&slot.kernel)).raw("instr_user", &spread(&slot.user));
        let p = &slot.path;
        if p.cycles.n + p.broken > 0 {
            let mut path = Object::new();
            path.number("n", p.cycles.n).number("broken", p.broken);
            path.raw("cycles", &spread(&p.cycles)).raw("kernel", &spread(&p.kernel));
            path.raw("user", &spread(&p.user)).raw("hops", &spread(&p.hops));
            o.raw("path", &path.end());
        }
        let (mut local, mut remote) = (0, 0);
        for bank in [KERNEL, USER] {
            for class in Class::ALL {
                let t = slot.sum.traffic(bank, class);
                local += t.local(node);
                remote += t.remote(node);
            }
        }
        o.number("local", local).number("remote", remote);
        o.raw("kernel", &self.bank(&slot.sum, KERNEL, node));
        o.raw("user", &self.bank(&slot.sum, USER, node));
        o.raw("lines", &self.lines(region, slot, cpu));
        let mut irq = Object::new();
        for vector in 0..=255 {
            let n = slot.sum.vector(vector);
            if n > 0 {
                irq.number(&vector.to_string(), n);
            }
        }
        o.raw("irq", &irq.end());
        o.end()
    }

    fn bank(&self, sum: &Counters, bank: usize, node: usize) -> String {
        let nodes = self.config().memory.len();
        let mut o = Object::new();
        for &count in Count::ALL {
            let n = sum.get(bank, count);
            if n > 0 || count == Count::Instructions {
                o.number(count.name(), n);
            }
        }
        for class in Class::ALL {
            let t = sum.traffic(bank, class);
            let mut c = Object::new();
            c.number("l1", t.hits[0]).number("l2", t.hits[1]).number("l3", t.hits[2]);
            c.number("near", t.near).number("far", t.far).number("io", t.io);
            c.raw("memory", &list(t.memory[..nodes].iter().copied()));
            c.number("local", t.local(node)).number("remote", t.remote(node));
            o.raw(class.name(), &c.end());
        }
        o.end()
    }

    fn lines(&self, region: &Region, slot: &Slot, cpu: usize) -> String {
        let nodes = self.config().memory.len();
        let mut o = Object::new();
        for (bank, shift) in [("kernel", 0), ("user", 3)] {
            let mut b = Object::new();
            for (name, bit) in HOW {
                let mut per_node = vec![0; nodes];
                for (line, how) in slot.lines.iter() {
                    if how & bit << shift != 0 {
                        per_node[self.ram().node_of_line(line)] += 1;
                    }
                }
                b.raw(name, &list(per_node));
            }
            o.raw(bank, &b.end());
        }
        o.number("shared_written", self.regions.shared_written(region, cpu).len() as u64);
        o.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_quoted() {
        assert_eq!(quote("a\"b\\c\n"), "\"a\\\"b\\\\c\\u000a\"");
    }

    #[test]
    fn objects_have_commas_between_members() {
        let s = Object::new().number("a", 1).text("b", "x").raw("c", "[]").end();
        assert_eq!(s, "{\"a\":1,\"b\":\"x\",\"c\":[]}");
        assert_eq!(list([1, 2]), "[1,2]");
    }
}
