//! What the reply to a RESTORE means.

use redis::Value;

use super::ExistingKeys;
use crate::error::{Error, ErrorKind};

/// Error codes after which no other key can be restored either.
const FATAL_CODES: [&str; 3] = ["MISCONF", "NOPERM", "OOM"];

/// What becomes of a key after a reply.
#[derive(Clone, Debug)]
pub(super) enum Decision {
    /// It is restored.
    Done,
    /// It exists, and stays as it is.
    Skip,
    /// It exists, and the restore ends.
    Exists,
    /// It exists, but this restore may have made it: it is compared.
    Compare,
    /// It was not restored, and is sent again.
    Repeat(Error),
    /// It may have been restored, and is sent again.
    Doubt(Error),
    /// This key cannot be restored.
    Refuse(String),
    /// No key can be restored any more.
    Fail(Error),
}

/// Judges a reply. `is_doubtful` says that the key may have been sent before, without a reply.
pub(super) fn judge(
    reply: Result<Value, Error>,
    existing: ExistingKeys,
    is_doubtful: bool,
) -> Decision {
    let error = match reply {
        Ok(_) => return Decision::Done,
        Err(error) => error,
    };
    let code = error.server_reply().map(|reply| reply.code().to_owned());
    match (error.kind(), code.as_deref()) {
        (ErrorKind::Redis, Some("BUSYKEY")) => match existing {
            _ if is_doubtful => Decision::Compare,
            ExistingKeys::Skip => Decision::Skip,
            ExistingKeys::Fail | ExistingKeys::Replace => Decision::Exists,
        },
        _ if error.is_retryable() => Decision::Repeat(error),
        (ErrorKind::Redis, Some(code)) if FATAL_CODES.contains(&code) => Decision::Fail(error),
        (ErrorKind::Redis | ErrorKind::Unroutable, _) => Decision::Refuse(error.to_string()),
        (ErrorKind::Unknown | ErrorKind::Partial, _) => Decision::Doubt(error),
        _ => Decision::Fail(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::server_error;

    fn reply(code: &str) -> Result<Value, Error> {
        Err(Error::from_server(&server_error(code, "why"), Some("a")))
    }

    #[test]
    fn replies_to_restore_are_judged() {
        use ExistingKeys::{Fail, Replace, Skip};
        let decision = |reply, existing, doubt| format!("{:?}", judge(reply, existing, doubt));
        let unknown = || Err(Error::new(ErrorKind::Unknown, "no reply"));
        for (reply, existing, doubt, expected) in [
            (Ok(Value::Okay), Fail, false, "Done"),
            (reply("BUSYKEY"), Fail, false, "Exists"),
            (reply("BUSYKEY"), Skip, false, "Skip"),
            (reply("BUSYKEY"), Skip, true, "Compare"),
            (reply("LOADING"), Replace, false, "Repeat"),
            (unknown(), Replace, false, "Doubt"),
            (reply("OOM"), Replace, false, "Fail"),
            (reply("ERR"), Replace, false, "Refuse"),
            (Err(Error::config("x")), Replace, false, "Fail"),
        ] {
            let found = decision(reply, existing, doubt);
            assert!(found.starts_with(expected), "{found} {expected}");
        }
    }
}
