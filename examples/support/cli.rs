//! The command line of every example: `--help`, the refusal of unknown arguments, and a quiet end when
//! standard output is closed.

use std::any::Any;
use std::env;
use std::error::Error;
use std::ffi::OsString;
use std::fmt;
use std::io::{self, Write};
use std::panic::{self, AssertUnwindSafe};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

/// The exit code that a shell shows for a program ended by SIGPIPE.
pub const READER_LEFT: u8 = 141;
/// The exit code for invalid arguments.
const USAGE: u8 = 2;

pub type Outcome = Result<(), Box<dyn Error>>;

/// Like the standard macros, but a reader that closes the pipe, such as `head`, ends the program quietly.
#[allow(unused_macros, reason = "not every example prints parts of lines")]
macro_rules! print {
    ($($words:tt)*) => { $crate::cli::write(format_args!($($words)*)) };
}
#[allow(unused_macros, reason = "not every example prints lines")]
macro_rules! println {
    () => { $crate::cli::write(format_args!("\n")) };
    ($($words:tt)*) => { $crate::cli::write(format_args!("{}\n", format_args!($($words)*))) };
}

/// The command line of an example.
pub struct Program {
    pub name: &'static str,
    /// The operands in the usage line, such as `[URL ...]`.
    pub operands: &'static str,
    /// Maximum number of operands.
    pub most: usize,
    pub about: &'static str,
}

impl Program {
    /// A program without arguments that looks for no server.
    #[allow(dead_code, reason = "some examples take arguments")]
    pub const fn plain(name: &'static str, about: &'static str) -> Self {
        Self {
            name,
            operands: "",
            most: 0,
            about,
        }
    }

    /// Parses the arguments, runs the program, and exits as a command-line program does.
    pub fn run(&self, body: impl FnOnce(Vec<OsString>) -> Outcome) -> ExitCode {
        let asked = env::args_os().skip(1).collect();
        let body = || match self.operands(asked) {
            Ok(None) => {
                write(format_args!("{}\n", self.help()));
                Ok(ExitCode::SUCCESS)
            }
            Ok(Some(operands)) => body(operands).map(|()| ExitCode::SUCCESS),
            Err(mistake) => {
                eprintln!("{}: {mistake}\n\n{}", self.name, self.help());
                Ok(ExitCode::from(USAGE))
            }
        };
        match panic::catch_unwind(AssertUnwindSafe(body)) {
            Ok(Ok(code)) => code,
            Ok(Err(error)) => self.failed(&error),
            Err(cause) if cause.is::<ReaderLeft>() => ExitCode::from(READER_LEFT),
            Err(cause) => match cause.downcast::<Unwritable>() {
                Ok(error) => {
                    self.failed(&format!("standard output cannot be written: {}", error.0))
                }
                Err(panic) => panic::resume_unwind(panic),
            },
        }
    }

    fn failed(&self, error: &dyn fmt::Display) -> ExitCode {
        eprintln!("{}: {error}", self.name);
        ExitCode::FAILURE
    }

    /// The operands; `None` if help was requested.
    fn operands(&self, asked: Vec<OsString>) -> Result<Option<Vec<OsString>>, String> {
        let mut operands = Vec::new();
        let mut asked = asked.into_iter();
        while let Some(word) = asked.next() {
            match word.to_str() {
                Some("-h" | "--help") => return Ok(None),
                Some("--") => operands.extend(asked.by_ref()),
                // The text after an equals sign is not shown: it may be a password.
                Some(option) if option.starts_with('-') => {
                    let option = option.split('=').next().unwrap_or_default();
                    return Err(format!("there is no option {option}"));
                }
                _ => operands.push(word),
            }
        }
        match operands.len() <= self.most {
            true => Ok(Some(operands)),
            false if self.most == 0 => Err("it takes no arguments".into()),
            false => Err(format!(
                "it takes at most {} of them: {}",
                self.most, self.operands
            )),
        }
    }

    fn help(&self) -> String {
        let Self {
            name,
            operands,
            about,
            ..
        } = self;
        format!("usage: {name} {operands}").trim_end().to_owned() + "\n\n" + about
    }
}

/// Arguments that must be text, such as URLs.
#[allow(dead_code, reason = "not every example takes URLs")]
pub fn texts(words: Vec<OsString>) -> Result<Vec<String>, String> {
    // Not shown: it may contain a password.
    let text = |word: OsString| {
        word.into_string()
            .map_err(|_| "an argument is not UTF-8".to_owned())
    };
    words.into_iter().map(text).collect()
}

/// The payload of an unwind after the reader closed standard output. It stops started servers, and is not
/// reported as a panic.
struct ReaderLeft;

/// Standard output cannot be written for another reason, such as a full disk.
struct Unwritable(io::Error);

/// Writes to standard output. Output after its reader has closed it is discarded.
pub fn write(words: fmt::Arguments<'_>) {
    static LEFT: AtomicBool = AtomicBool::new(false);
    if LEFT.load(Ordering::Relaxed) {
        return;
    }
    let Err(error) = io::stdout().write_fmt(words) else {
        return;
    };
    LEFT.store(true, Ordering::Relaxed);
    let cause: Box<dyn Any + Send> = match error.kind() {
        io::ErrorKind::BrokenPipe => Box::new(ReaderLeft),
        _ => Box::new(Unwritable(error)),
    };
    panic::resume_unwind(cause);
}
