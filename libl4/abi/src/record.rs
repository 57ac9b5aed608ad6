//! Machine-readable lines: `@json {"kind":...}` (architecture 6).
//!
//! [`Line`] writes one JSON object into any [`fmt::Write`]; the typed records below it are the kinds
//! that several programs produce. Numbers are integers: a record names its unit instead.

use core::fmt::{self, Write};

/// What every record line starts with.
pub const PREFIX: &str = "@json ";

/// A line under construction. The first error sticks and is returned by [`Line::end`].
#[derive(Debug)]
pub struct Line<'w, W: Write> {
    out: &'w mut W,
    result: fmt::Result,
    need_comma: bool,
}

impl<'w, W: Write> Line<'w, W> {
    /// Starts a record of this kind.
    pub fn begin(out: &'w mut W, kind: &str) -> Self {
        Self::begin_with(out, PREFIX, kind)
    }

    /// Starts an object of this kind on a line that begins with `prefix`.
    pub fn begin_with(out: &'w mut W, prefix: &str, kind: &str) -> Self {
        let result = out.write_str(prefix).and_then(|()| out.write_char('{'));
        let mut line = Self { out, result, need_comma: false };
        line.str("kind", kind);
        line
    }

    fn put(&mut self, write: impl FnOnce(&mut W) -> fmt::Result) {
        if self.result.is_ok() {
            self.result = write(self.out);
        }
    }

    fn separate(&mut self) {
        if self.need_comma {
            self.put(|w| w.write_char(','));
        }
        self.need_comma = true;
    }

    fn key(&mut self, key: &str) {
        self.separate();
        self.put(|w| escape(w, key));
        self.put(|w| w.write_char(':'));
    }

    /// A string field.
    pub fn str(&mut self, key: &str, value: &str) -> &mut Self {
        self.key(key);
        self.put(|w| escape(w, value));
        self
    }

    /// A string field from anything that can be displayed.
    pub fn display(&mut self, key: &str, value: impl fmt::Display) -> &mut Self {
        self.key(key);
        self.put(|w| {
            w.write_char('"')?;
            write!(Escaper(w), "{value}")?;
            w.write_char('"')
        });
        self
    }

    /// An unsigned field.
    pub fn num(&mut self, key: &str, value: u64) -> &mut Self {
        self.key(key);
        self.put(|w| write!(w, "{value}"));
        self
    }

    /// A signed field.
    pub fn int(&mut self, key: &str, value: i64) -> &mut Self {
        self.key(key);
        self.put(|w| write!(w, "{value}"));
        self
    }

    /// A boolean field.
    pub fn flag(&mut self, key: &str, value: bool) -> &mut Self {
        self.key(key);
        self.put(|w| write!(w, "{value}"));
        self
    }

    /// An array of unsigned numbers.
    pub fn nums(&mut self, key: &str, values: impl IntoIterator<Item = u64>) -> &mut Self {
        self.array(key, |line| {
            for value in values {
                line.separate();
                line.put(|w| write!(w, "{value}"));
            }
        })
    }

    /// An array; `fill` adds its elements with [`Self::object`] (or nothing).
    pub fn array(&mut self, key: &str, fill: impl FnOnce(&mut Self)) -> &mut Self {
        self.key(key);
        self.nested('[', ']', fill)
    }

    /// An object as an array element; `fill` adds its fields.
    pub fn object(&mut self, fill: impl FnOnce(&mut Self)) -> &mut Self {
        self.separate();
        self.nested('{', '}', fill)
    }

    /// An object as a field; `fill` adds its fields.
    pub fn object_field(&mut self, key: &str, fill: impl FnOnce(&mut Self)) -> &mut Self {
        self.key(key);
        self.nested('{', '}', fill)
    }

    fn nested(&mut self, open: char, close: char, fill: impl FnOnce(&mut Self)) -> &mut Self {
        self.put(|w| w.write_char(open));
        self.need_comma = false;
        fill(self);
        self.put(|w| w.write_char(close));
        self.need_comma = true;
        self
    }

    /// Ends the line, newline included.
    ///
    /// # Errors
    /// The first error of the writer.
    pub fn end(mut self) -> fmt::Result {
        self.put(|w| w.write_str("}\n"));
        self.result
    }
}

struct Escaper<'a, W>(&'a mut W);

impl<W: Write> Write for Escaper<'_, W> {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        for c in s.chars() {
            match c {
                '"' => self.0.write_str("\\\"")?,
                '\\' => self.0.write_str("\\\\")?,
                '\n' => self.0.write_str("\\n")?,
                '\r' => self.0.write_str("\\r")?,
                '\t' => self.0.write_str("\\t")?,
                c if (c as u32) < 0x20 => write!(self.0, "\\u{:04x}", c as u32)?,
                c => self.0.write_char(c)?,
            }
        }
        Ok(())
    }
}

fn escape<W: Write>(out: &mut W, s: &str) -> fmt::Result {
    out.write_char('"')?;
    Escaper(out).write_str(s)?;
    out.write_char('"')
}

/// Kind `test`: the outcome of one named test.
#[derive(Clone, Copy, Debug)]
pub struct Test<'a> {
    /// Name, unique within the program.
    pub name: &'a str,
    /// Whether it passed.
    pub ok: bool,
    /// What went wrong, or what was seen.
    pub detail: fmt::Arguments<'a>,
}

impl Test<'_> {
    /// Writes the line.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn write<W: Write>(&self, out: &mut W) -> fmt::Result {
        let mut line = Line::begin(out, "test");
        line.str("name", self.name).flag("ok", self.ok).display("detail", self.detail);
        line.end()
    }
}

/// Kind `result`: one measured number with its spread.
#[derive(Clone, Copy, Debug)]
pub struct Measurement<'a> {
    /// The experiment.
    pub bench: &'a str,
    /// The variant or point of it.
    pub variant: &'a str,
    /// What was measured.
    pub metric: &'a str,
    /// Unit of `value`, `min` and `max`.
    pub unit: &'a str,
    /// The value reported.
    pub value: u64,
    /// Smallest sample.
    pub min: u64,
    /// Largest sample.
    pub max: u64,
    /// Number of samples.
    pub n: u64,
}

impl Measurement<'_> {
    /// Writes the line with extra fields that `more` adds (parameters of the experiment).
    ///
    /// # Errors
    /// Those of the writer.
    pub fn write_with<W: Write>(
        &self,
        out: &mut W,
        more: impl FnOnce(&mut Line<'_, W>),
    ) -> fmt::Result {
        let mut line = Line::begin(out, "result");
        line.str("bench", self.bench).str("variant", self.variant).str("metric", self.metric);
        line.str("unit", self.unit).num("value", self.value);
        line.num("min", self.min).num("max", self.max).num("n", self.n);
        more(&mut line);
        line.end()
    }

    /// Writes the line.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn write<W: Write>(&self, out: &mut W) -> fmt::Result {
        self.write_with(out, |_| {})
    }
}

/// Kind `roi`: a region of interest begins or ends.
#[derive(Clone, Copy, Debug)]
pub struct Roi<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its number, as the marker instruction carries it.
    pub id: u64,
}

impl Roi<'_> {
    /// Writes the line.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn write<W: Write>(&self, out: &mut W) -> fmt::Result {
        let mut line = Line::begin(out, "roi");
        line.str("name", self.name).num("id", self.id);
        line.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typed_records() {
        let mut s = String::new();
        Test { name: "a", ok: true, detail: format_args!("x \"y\"\n{}", 3) }.write(&mut s).unwrap();
        Roi { name: "r", id: 7 }.write(&mut s).unwrap();
        let m = Measurement {
            bench: "b",
            variant: "v",
            metric: "m",
            unit: "cycles",
            value: 2,
            min: 1,
            max: 3,
            n: 9,
        };
        m.write_with(&mut s, |l| {
            l.num("words", 4);
        })
        .unwrap();
        let want = concat!(
            "@json {\"kind\":\"test\",\"name\":\"a\",\"ok\":true,\"detail\":\"x \\\"y\\\"\\n3\"}\n",
            "@json {\"kind\":\"roi\",\"name\":\"r\",\"id\":7}\n",
            "@json {\"kind\":\"result\",\"bench\":\"b\",\"variant\":\"v\",\"metric\":\"m\",",
            "\"unit\":\"cycles\",\"value\":2,\"min\":1,\"max\":3,\"n\":9,\"words\":4}\n",
        );
        assert_eq!(s, want);
    }

    #[test]
    fn nesting_and_escapes() {
        let mut s = String::new();
        let mut line = Line::begin(&mut s, "boot");
        line.nums("cpus", [1, 2]).nums("none", []).int("t", -3);
        line.array("nodes", |l| {
            for id in 0..2 {
                l.object(|l| {
                    l.num("id", id).nums("d", [10, 20]);
                });
            }
        });
        line.object_field("o", |l| {
            l.str("ctl", "\u{1}\\\t");
        });
        line.flag("end", false);
        line.end().unwrap();
        let want = concat!(
            "@json {\"kind\":\"boot\",\"cpus\":[1,2],\"none\":[],\"t\":-3,\"nodes\":[",
            "{\"id\":0,\"d\":[10,20]},{\"id\":1,\"d\":[10,20]}],",
            "\"o\":{\"ctl\":\"\\u0001\\\\\\t\"},\"end\":false}\n"
        );
        assert_eq!(s, want);
    }
}
