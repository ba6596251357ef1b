//! MULTI ... EXEC as one piece: it lives on one node, or is refused before a byte is sent.

use redis::Value;

use crate::command::{Access, Route, Scripting};
use crate::error::{Error, ErrorKind, KeyText, named_server_error, server_error};
use crate::partition::NodeIndex;
use crate::plan::batch::{NodeRequest, ReplySlot};
use crate::plan::refusal::typed_name;
use crate::plan::{Answers, CacheSnapshot, Router};

/// A transaction that is being gathered.
#[derive(Clone, Debug, Default)]
pub(crate) struct PlannedTransaction {
    /// The node, and the first key that it owns.
    owner: Option<(NodeIndex, Vec<u8>)>,
    commands: usize,
    scripting: Scripting,
}

/// What the last answer of an exchange must be, so that its connection may serve somebody else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ExpectedEnd {
    /// Anything.
    Any,
    /// Anything, and who passes the answers on unread asks again for those that were not kept because of their size.
    #[cfg(feature = "proxy")]
    Repeatable,
    /// Something that ends a transaction. A server that refuses EXEC otherwise (it is renamed, or not allowed, or the
    /// server is old and loading) leaves the connection in the transaction, and the next command's answer is QUEUED.
    Exec,
}

impl ExpectedEnd {
    /// Whether this last answer is what it must be.
    #[inline]
    pub(crate) fn is_met_by(self, last: &Value) -> bool {
        match (self, last) {
            (Self::Exec, Value::Array(_) | Value::Nil) => true,
            (Self::Exec, Value::ServerError(error)) => error.code() == "EXECABORT",
            (Self::Exec, _) => false,
            _ => true,
        }
    }

    /// Whether this last answer, as it came over the wire, is what it must be.
    #[cfg(feature = "tokio-comp")]
    #[inline]
    pub(crate) fn is_met_by_frame(self, last: &[u8]) -> bool {
        self != Self::Exec
            || matches!(last, [b'*' | b'$' | b'_', ..])
            || last.starts_with(b"-EXECABORT")
    }
}

impl PlannedTransaction {
    /// Checks one command between MULTI and EXEC: its keys live where those before it do. So do those that a script shows
    /// which declares none.
    pub(crate) fn add(
        &mut self,
        router: &Router,
        args: &[&[u8]],
        snapshot: CacheSnapshot<'_>,
    ) -> Result<(), Error> {
        self.commands += 1;
        let command = router.lookup(args)?;
        self.scripting = self.scripting.or(command.scripting());
        match command.route() {
            Route::Keys | Route::Split { .. } | Route::Any => {}
            // Between MULTI and EXEC it asks one connection.
            Route::All(_) if command.name() == "PING" => {}
            Route::Stateful | Route::Refused | Route::Scan | Route::All(_) | Route::NodeOnly => {
                return Err(Error::new(
                    ErrorKind::Unroutable,
                    format!(
                        "{} (command {} of the transaction) does not concern the keys of one node; leave it out, or run \
                         the transaction on `client.node(name)`",
                        typed_name(command),
                        self.commands,
                    ),
                ));
            }
        }
        let at = router.keys(command, args)?;
        for &position in &at.keys {
            self.add_key(router, args[position as usize])?;
        }
        if at.keys.is_empty()
            && command.route() == Route::Keys
            && command.scripting() == Scripting::Yes
        {
            for key in router.literal_keys(command, args, &snapshot())? {
                self.add_key(router, key)?;
            }
        }
        // A pattern is no key: where it would live itself says nothing of the keys that are made of it.
        for &position in &at.patterns {
            let node = self.owner()?;
            router.check_pattern(command, args[position as usize], node)?;
        }
        Ok(())
    }

    /// The node all of it lives on.
    pub(crate) fn owner(&self) -> Result<NodeIndex, Error> {
        match &self.owner {
            Some((node, _)) => Ok(*node),
            None => Err(Error::new(
                ErrorKind::Unroutable,
                "the transaction was given no key, so no node can be chosen; give it a key, or run it on \
                 `client.node(name)`",
            )),
        }
    }

    /// Whether any of the commands concerns scripts.
    pub(crate) fn scripting(&self) -> Scripting {
        self.scripting
    }

    /// Adds a key that it is about.
    pub(crate) fn add_key(&mut self, router: &Router, key: &[u8]) -> Result<(), Error> {
        let owner = router.owner(key)?;
        match &self.owner {
            None => {
                self.owner = Some((owner, key.to_vec()));
                Ok(())
            }
            Some((node, _)) if *node == owner => Ok(()),
            Some((node, first)) => Err(Error::new(
                ErrorKind::CrossNode,
                format!(
                    "a transaction runs on one node, but the key {} lives on node {} and the key {} on node {}; put all \
                     its keys under one hash tag, such as {{tag}}a and {{tag}}b",
                    KeyText(first),
                    router.name(*node),
                    KeyText(key),
                    router.name(owner),
                ),
            )
            .about_keys([&first[..], key])),
        }
    }

    /// The packed MULTI ... EXEC as one exchange. Nothing of it is ever sent twice.
    pub(crate) fn exchange(node: NodeIndex, packed: &[u8], commands: usize) -> NodeRequest {
        let slots = vec![ReplySlot::whole(0, Access::Write); commands + 2];
        NodeRequest::transaction(node, packed.to_vec(), slots)
    }

    /// What EXEC answered, as `redis::Pipeline` expects it.
    pub(crate) fn finish(node: &str, answers: Answers) -> Result<Value, Error> {
        if let Some(failure) = &answers.failure {
            return Err(failure.error(node, 0, Access::Write));
        }
        let mut values = answers.values;
        let exec = values.pop().unwrap_or_default();
        let refused = values
            .into_iter()
            .enumerate()
            .find_map(|(number, value)| match value {
                Value::ServerError(error) => Some((number, error)),
                _ => None,
            });
        match (refused, exec) {
            (Some((0, error)), _) => Err(Error::from_server(&server_error(
                error.code(),
                &format!(
                    "{} (MULTI itself was refused: the commands after it may have run one by one) (node {node})",
                    error.details().unwrap_or_default()
                ),
            ))),
            (Some((number, error)), _) => {
                let details = error.details().unwrap_or_default();
                let text = format!(
                    "Transaction discarded because of command {number}: {} {details} (node {node})",
                    error.code()
                );
                Err(Error::from_server(&server_error("EXECABORT", &text)))
            }
            (None, Value::ServerError(error)) => {
                Err(Error::from_server(&named_server_error(&error, node)))
            }
            (None, value) => Ok(value),
        }
    }
}
