//! The limits of the numbers of an [`Ejection`].

use std::sync::Arc;
use std::time::Duration;

use crate::config::settings::{Limit, limits};
use crate::error::Error;
use crate::observe::Votes;
use crate::policy::{Ejection, Readmission};

/// What the connections of a cache record. `None` if no node is ever ejected.
///
/// # Errors
///
/// [`Config`](crate::ErrorKind::Config) if a number is out of its range.
pub(super) fn votes(ejection: &Ejection) -> Result<Option<Arc<Votes>>, Error> {
    check(ejection)?;
    Ok(ejection.failures().map(|_| Votes::new(*ejection, [])))
}

/// Checks that every number is within its limits.
fn check(ejection: &Ejection) -> Result<(), Error> {
    if let Some(failures) = ejection.failures() {
        limits::EJECTION_FAILURES.check(failures)?;
    }
    limits::EJECTION_WINDOW.check(ejection.window())?;
    limits::MAX_EJECTED.check(ejection.max_ejected_percent())?;
    limits::EJECTION_SUCCESSES.check(ejection.successes())?;
    let (min, max) = ejection.probe_interval();
    limits::PROBE_INTERVAL.check(min)?;
    limits::PROBE_INTERVAL.check(max)?;
    if min > max {
        return Err(Error::config(format!(
            "with_probe_interval of the ejection begins with {min:?}, which is more than its longest pause, {max:?}"
        )));
    }
    let check = |limit: &Limit<Duration>, time: Option<Duration>| {
        time.map_or(Ok(Duration::ZERO), |time| limit.check(time))
    };
    check(&limits::HEARTBEAT, ejection.heartbeat())?;
    check(&limits::RETRY_AFTER, ejection.retry_after())?;
    check(&limits::RAMP, ejection.ramp())?;
    if let Readmission::AfterTtl(ttl) = ejection.readmission() {
        limits::AFTER_TTL.check(ttl)?;
    }
    if !ejection.requests_count() && ejection.heartbeat().is_none() {
        return Err(Error::config(
            "with_request_failures(false) of the ejection needs with_heartbeat: without either, no failure is noticed",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{EJECTION_COUNT_MAX, EJECTION_TIME_MAX};

    #[test]
    fn ejection_settings_out_of_range_are_refused_by_name() {
        let ok = Ejection::new();
        let (short, long) = (
            Duration::from_millis(9),
            EJECTION_TIME_MAX + Duration::from_millis(1),
        );
        let rows = [
            (ok.with_failures(0), "with_failures"),
            (ok.with_failures(EJECTION_COUNT_MAX + 1), "with_failures"),
            (ok.with_window(short), "with_window"),
            (ok.with_window(long), "with_window"),
            (ok.with_max_ejected_percent(0), "with_max_ejected_percent"),
            (ok.with_max_ejected_percent(101), "with_max_ejected_percent"),
            (ok.with_successes(0), "with_successes"),
            (ok.with_probe_interval(short, long), "with_probe_interval"),
            (
                ok.with_probe_interval(EJECTION_TIME_MAX, Duration::from_secs(1)),
                "with_probe_interval",
            ),
            (ok.with_heartbeat(Some(short)), "with_heartbeat"),
            (ok.with_retry_after(Some(long)), "with_retry_after"),
            (ok.with_ramp(Some(short)), "with_ramp"),
            (
                ok.with_readmission(Readmission::AfterTtl(Duration::ZERO)),
                "AfterTtl",
            ),
            (ok.with_request_failures(false), "with_heartbeat"),
        ];
        for (ejection, setting) in rows {
            let builder = crate::ShardedClient::builder().node("a", "redis://h:1");
            let error = builder.cache(ejection).build().unwrap_err();
            assert_eq!(error.kind(), crate::ErrorKind::Config);
            assert!(error.to_string().contains(setting), "{error}");
        }
        for ejection in [
            ok,
            Ejection::never(),
            Ejection::twemproxy(),
            Ejection::go_redis(),
        ] {
            check(&ejection).unwrap();
        }
    }
}
