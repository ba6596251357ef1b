//! The arguments of the command line.

use super::fleet::placement_option;
use super::shown::shown;

/// The parsed command line.
#[derive(Debug, Default)]
pub struct Arguments {
    pub placement: Option<String>,
    pub options: Vec<(String, String)>,
    pub nodes: Vec<String>,
    pub topology: Option<String>,
    pub order: Order,
}

/// What to do with the fleet.
#[derive(Debug, Default, PartialEq, Eq)]
pub enum Order {
    #[default]
    Locate,
    Balance,
    /// Compares with the fleet in this file.
    Diff(String),
    Help,
    List,
    WriteTopology,
}

impl Arguments {
    pub fn read(words: &[String]) -> Result<Self, String> {
        let mut arguments = Self::default();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let (flag, joined) = match word.split_once('=') {
                Some((flag, value)) => (flag, Some(value.to_owned())),
                None => (word.as_str(), None),
            };
            let order = match flag {
                "--balance" => Some(Order::Balance),
                "--help" | "-h" => Some(Order::Help),
                "--list" => Some(Order::List),
                "--write-topology" => Some(Order::WriteTopology),
                _ => None,
            };
            match (order, joined) {
                (Some(order), None) => arguments.set_order(order)?,
                (Some(_), Some(_)) => return Err(format!("{flag} takes no value")),
                (None, joined) => {
                    let value = || {
                        joined
                            .or_else(|| words.next().cloned())
                            .ok_or_else(|| format!("{flag} takes a value"))
                    };
                    match flag {
                        "--placement" => once(flag, &mut arguments.placement, value()?)?,
                        "--topology" => once(flag, &mut arguments.topology, value()?)?,
                        "--node" => arguments.nodes.push(value()?),
                        "--option" => arguments.options.push(placement_option(&value()?)?),
                        "--diff" => arguments.set_order(Order::Diff(value()?))?,
                        _ => return Err(format!("there is no argument {}", shown(flag))),
                    }
                }
            }
        }
        arguments.check()?;
        Ok(arguments)
    }

    fn set_order(&mut self, order: Order) -> Result<(), String> {
        if order == Order::Help || self.order == Order::Help {
            self.order = Order::Help;
        } else if self.order == Order::Locate || self.order == order {
            self.order = order;
        } else {
            return Err(
                "only one of --balance, --diff, --list and --write-topology can be done at a time"
                    .into(),
            );
        }
        Ok(())
    }

    fn check(&self) -> Result<(), String> {
        if matches!(self.order, Order::Help | Order::List) {
            return Ok(());
        }
        let by_words =
            self.placement.is_some() || !self.options.is_empty() || !self.nodes.is_empty();
        match (&self.topology, &self.placement) {
            (Some(_), _) if by_words => {
                Err("--topology says it all: no --placement, --option or --node beside it".into())
            }
            (None, None) => Err("where to? Give --placement and --node, or --topology".into()),
            (None, Some(_)) if self.nodes.is_empty() => Err("there is no --node".into()),
            _ => Ok(()),
        }
    }
}

fn once(flag: &str, place: &mut Option<String>, value: String) -> Result<(), String> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(format!("{flag} is given twice")),
    }
}
