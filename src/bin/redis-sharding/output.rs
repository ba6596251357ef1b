//! Reports on standard output: as text, or as JSON.

use std::io::{self, Write};

use anstream::AutoStream;
use clap::builder::styling::{AnsiColor, Style};
use serde::{Serialize, Serializer};

/// The style of what is wrong.
pub const BAD: Style = AnsiColor::Red.on_default();
/// The style of the heads of tables.
pub const HEAD: Style = Style::new().bold();

/// A report as text.
pub trait Text {
    /// Writes the text. Colours are removed for files and pipes, and if `NO_COLOR` is set.
    fn write(&self, output: &mut impl Write) -> io::Result<()>;
}

/// Writes a report to standard output.
pub fn write(report: &(impl Serialize + Text), as_json: bool) -> io::Result<()> {
    if as_json {
        return write_json(report);
    }
    // Written at once: a reader that leaves early sees whole lines.
    let mut text = Vec::new();
    report.write(&mut text)?;
    let mut output = AutoStream::auto(io::stdout().lock());
    output.write_all(&text)?;
    output.flush()
}

/// Writes a value to standard output as JSON.
pub fn write_json(value: &impl Serialize) -> io::Result<()> {
    let mut output = io::BufWriter::new(io::stdout().lock());
    serde_json::to_writer_pretty(&mut output, value)?;
    output.write_all(b"\n")?;
    output.flush()
}

/// A key in JSON: a string, or for bytes that are not UTF-8 an object such as `{"hex":"ff00"}`.
pub struct JsonKey<'k>(pub &'k [u8]);

impl Serialize for JsonKey<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Bytes {
            hex: String,
        }
        match std::str::from_utf8(self.0) {
            Ok(text) => serializer.serialize_str(text),
            Err(_) => {
                let digits = self.0.iter().map(|byte| format!("{byte:02x}"));
                let hex = digits.collect();
                Bytes { hex }.serialize(serializer)
            }
        }
    }
}
