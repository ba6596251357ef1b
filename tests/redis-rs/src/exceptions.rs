//! The list of cases that cannot pass.
//!
//! A heading in brackets is the reason of the cases below it. A case is a line: its file, its name, and the conditions
//! under which it cannot pass; all must hold. With `sometimes` among them it may also pass. `#` begins a comment.

use std::fmt;

use anyhow::{Result, bail};

use crate::outcome::Case;

/// The condition of cases that pass or not by chance.
const SOMETIMES: &str = "sometimes";

/// How the cases are run.
#[derive(Default)]
pub struct Mode {
    pub one_node: bool,
    pub resp3: bool,
    pub server_major: u32,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nodes = if self.one_node {
            "all keys on one of four nodes"
        } else {
            "four nodes"
        };
        let protocol = if self.resp3 { "RESP3" } else { "RESP2" };
        write!(f, "{nodes}, {protocol}, server {}", self.server_major)
    }
}

impl Mode {
    /// Whether a condition of the list holds. `None`: there is no such condition.
    fn holds(&self, condition: &str) -> Option<bool> {
        Some(match condition {
            "four-nodes" => !self.one_node,
            "one-node" => self.one_node,
            "resp2" => !self.resp3,
            "resp3" => self.resp3,
            "before-8" => self.server_major < 8,
            "since-8" => self.server_major >= 8,
            SOMETIMES => true,
            _ => return None,
        })
    }
}

/// The list.
pub struct Exceptions {
    lines: Vec<Exception>,
}

struct Exception {
    reason: String,
    case: String,
    conditions: Vec<String>,
}

impl Exceptions {
    pub fn read(text: &str) -> Result<Self> {
        let mut reason = None;
        let mut lines = Vec::new();
        for line in text.lines().map(str::trim) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if let Some(heading) = line
                .strip_prefix('[')
                .and_then(|line| line.strip_suffix(']'))
            {
                reason = Some(heading.to_owned());
                continue;
            }
            let mut words = line.split_whitespace();
            let (Some(file), Some(name), Some(reason)) = (words.next(), words.next(), &reason)
            else {
                bail!("exceptions.txt: {line:?} is no case below a reason");
            };
            let conditions: Vec<String> = words.map(str::to_owned).collect();
            if let Some(word) = conditions
                .iter()
                .find(|word| Mode::default().holds(word).is_none())
            {
                bail!("exceptions.txt: {word:?} is no condition");
            }
            lines.push(Exception {
                reason: reason.clone(),
                case: format!("{file} {name}"),
                conditions,
            });
        }
        Ok(Self { lines })
    }

    /// The reason why `case` cannot pass in this mode.
    pub fn reason(&self, case: &Case, mode: &Mode) -> Option<&str> {
        self.line(case, mode).map(|line| line.reason.as_str())
    }

    /// Whether a case of the list may pass nevertheless.
    pub fn may_pass(&self, case: &Case, mode: &Mode) -> bool {
        self.line(case, mode)
            .is_some_and(|line| line.conditions.iter().any(|word| word == SOMETIMES))
    }

    fn line(&self, case: &Case, mode: &Mode) -> Option<&Exception> {
        let case = case.to_string();
        self.lines.iter().find(|line| {
            line.case == case
                && line
                    .conditions
                    .iter()
                    .all(|word| mode.holds(word) == Some(true))
        })
    }

    /// Refuses lines that are about no case.
    pub fn check_names(&self, cases: &[Case]) -> Result<()> {
        let names: Vec<String> = cases.iter().map(Case::to_string).collect();
        match self.lines.iter().find(|line| !names.contains(&line.case)) {
            Some(line) => bail!("exceptions.txt: there is no case {:?}", line.case),
            None => Ok(()),
        }
    }
}
