//! Requests in the wire format, as the handles get them, made ready for an executor.

use redis::Value;

use crate::command::{Args, PackedCommands};
use crate::error::{Error, ErrorKind};
use crate::node::NodeIndex;
use crate::plan::{Atomic, Batch, Exchange, Hold, Planned, Router};

/// What a packed pipeline becomes.
#[derive(Debug)]
pub(crate) enum Bundle<'r, 'p> {
    /// MULTI ... EXEC for one node.
    Atomic(NodeIndex, Exchange),
    /// Commands that go their own ways.
    Batch(Batch<'r, 'p>),
}

impl Router {
    /// Plans a packed pipeline.
    pub(crate) fn bundle<'r, 'p>(
        &'r self,
        packed: &'p [u8],
        shape: Shape,
    ) -> Result<Bundle<'r, 'p>, Error> {
        let Shape::Atomic { commands } = shape else {
            let mut batch = Batch::new(self, packed.len());
            for_each_command(packed, |frame, args| {
                let planned = self.planned(args)?;
                batch.add(frame, args, planned);
                Ok(())
            })?;
            return Ok(Bundle::Batch(batch));
        };
        let mut atomic = Atomic::new(self);
        for_each_inner_command(packed, commands, |args| atomic.add(args))?;
        let node = atomic.owner()?;
        Ok(Bundle::Atomic(
            node,
            Atomic::exchange(node, packed, commands),
        ))
    }

    /// Plans a packed pipeline that goes to `node` because the user says so.
    pub(crate) fn bundle_at<'r, 'p>(
        &'r self,
        node: NodeIndex,
        packed: &'p [u8],
        shape: Shape,
    ) -> Result<Bundle<'r, 'p>, Error> {
        let Shape::Atomic { commands } = shape else {
            let mut batch = Batch::new(self, packed.len());
            for_each_command(packed, |frame, args| {
                batch.add_at(node, frame, self.planned_at(node, args)?);
                Ok(())
            })?;
            return Ok(Bundle::Batch(batch));
        };
        for_each_inner_command(packed, commands, |args| {
            self.planned_at(node, args).map(drop)
        })?;
        Ok(Bundle::Atomic(
            node,
            Atomic::exchange(node, packed, commands),
        ))
    }
}

/// Checks a packed pipeline for a private connection, and says how long it may take.
pub(crate) fn check_each(
    packed: &[u8],
    mut check: impl FnMut(&[&[u8]]) -> Result<Planned, Error>,
) -> Result<Hold, Error> {
    let mut hold = Hold::No;
    for_each_command(packed, |_, args| {
        hold = hold.longer(check(args)?.hold);
        Ok(())
    })?;
    Ok(hold)
}

/// What kind of pipeline redis-rs has packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// MULTI, so many commands, EXEC.
    Atomic { commands: usize },
    /// Commands one after another.
    Plain,
}

impl Shape {
    /// Tells it as `redis::Pipeline` does: `offset` replies are left out, `count` are wanted.
    pub(crate) fn of(packed: &[u8], offset: usize, count: usize) -> Self {
        const MULTI: &[u8] = b"*1\r\n$5\r\nMULTI\r\n";
        const EXEC: &[u8] = b"*1\r\n$4\r\nEXEC\r\n";
        match offset > 0 && count == 1 && packed.starts_with(MULTI) && packed.ends_with(EXEC) {
            true => Self::Atomic {
                commands: offset - 1,
            },
            false => Self::Plain,
        }
    }
}

/// The replies that `redis::Pipeline` wants to see.
pub(crate) fn wanted(
    mut values: Vec<Value>,
    shape: Shape,
    offset: usize,
    count: usize,
) -> Vec<Value> {
    match shape {
        Shape::Atomic { .. } => values,
        Shape::Plain if offset == 0 && count == values.len() => values,
        Shape::Plain => {
            values.truncate(offset + count);
            values.drain(..offset.min(values.len()));
            values
        }
    }
}

/// The arguments of one packed request.
pub(crate) fn parse_one(packed: &[u8]) -> Result<Args<'_>, Error> {
    let mut args = Args::new();
    let mut commands = PackedCommands::new(packed);
    match commands.next(&mut args) {
        Ok(Some(frame)) if frame.len() == packed.len() => Ok(args),
        Ok(Some(_)) => Err(unreadable("there is more than one command in it")),
        Ok(None) => Err(unreadable("it is empty")),
        Err(error) => Err(unreadable(&error.to_string())),
    }
}

/// Calls `visit` with the bytes and the arguments of every command.
fn for_each_command<'p>(
    packed: &'p [u8],
    mut visit: impl FnMut(&'p [u8], &[&'p [u8]]) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut args = Args::new();
    let mut commands = PackedCommands::new(packed);
    let mut number = 0;
    while let Some(frame) = commands
        .next(&mut args)
        .map_err(|error| unreadable(&error.to_string()))?
    {
        visit(frame, &args).map_err(|error| error.at_command(number))?;
        number += 1;
    }
    Ok(())
}

/// Calls `visit` with the arguments of every command between MULTI and EXEC.
fn for_each_inner_command<'p>(
    packed: &'p [u8],
    commands: usize,
    mut visit: impl FnMut(&[&'p [u8]]) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut number = 0;
    for_each_command(packed, |_, args| {
        number += 1;
        match number {
            1 => Ok(()),
            last if last == commands + 2 => Ok(()),
            _ => visit(args),
        }
    })
}

fn unreadable(why: &str) -> Error {
    Error::new(
        ErrorKind::Unroutable,
        format!("the packed request cannot be read: {why}"),
    )
}
