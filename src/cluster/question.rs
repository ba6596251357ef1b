//! [`Question`]: how one server of a cluster is asked for its view.

use std::time::Duration;

use redis::Value;

use crate::blocking::RespStream;
use crate::cluster::monitor::ClusterSettings;
use crate::endpoint::Deadline;
use crate::error::{Error, ErrorKind};
use crate::policy::ConnectError;
use crate::topology::HostPort;
use crate::topology::cluster::{ClusterQuestions, ClusterView, NoAnswer, Questioned};

/// Time within which a server must reply, if connecting may take longer.
const REPLY_WITHIN_MAX: Duration = Duration::from_secs(5);

/// A question to one server.
pub(super) struct Question<'s> {
    pub(super) settings: &'s ClusterSettings,
    pub(super) server: &'s HostPort,
}

impl Question<'_> {
    /// Connects to the server, asks it, and closes the connection: it is not asked often.
    ///
    /// # Errors
    ///
    /// Why there is no answer.
    pub(super) fn ask(&self) -> Result<ClusterView, Error> {
        let endpoint = (self.settings.endpoint)(self.server)?;
        let limit = self.settings.connect_timeout;
        let connected = endpoint.monitor_handshake().and_then(|handshake| {
            RespStream::open(&endpoint, &handshake, &Deadline::start(Some(limit)))
        });
        let (mut stream, _) = connected.map_err(|error| not_connected(&error))?;
        let address = self.server;
        let broken = |why: String| Error::new(ErrorKind::NodeDown, format!("{address}: {why}"));
        let no_answer = |NoAnswer { kind, why }| Error::new(kind, format!("{address}: {why}"));
        let mut ask = |request: &[u8], count| {
            let deadline = Deadline::start(Some(limit.min(REPLY_WITHIN_MAX)));
            let mut replies: Vec<Value> = Vec::new();
            let sent = stream.write(request, &deadline);
            sent.map_err(|failed| failed.error)
                .and_then(|()| stream.read_all(count, &deadline, &mut replies))
                .map_err(|error| broken(error.to_string()))?;
            Ok::<_, Error>(replies)
        };
        let (request, count) = ClusterQuestions::REQUESTS;
        let replies = ask(request, count)?;
        let questions = ClusterQuestions {
            asked: self.server,
            is_tls: endpoint.tls.is_some(),
            map_address: &|named| self.settings.mapped(named),
        };
        match questions.answered(replies).map_err(no_answer)? {
            Questioned::Done(view) => Ok(view),
            Questioned::AskSlots(known) => {
                let slots = ask(ClusterQuestions::SLOTS_REQUEST, 1)?;
                let slots = slots.first().unwrap_or(&Value::Nil);
                questions.answered_slots(&known, slots).map_err(no_answer)
            }
        }
    }
}

/// The error of a server that could not be connected to.
fn not_connected(error: &ConnectError) -> Error {
    let kind = match error {
        ConnectError::Auth(_) | ConnectError::Certificate(_) => ErrorKind::Auth,
        _ => ErrorKind::NodeDown,
    };
    Error::new(kind, error.to_string()).with_io(error.io_kind())
}
