//! The time, as the clock on the wall shows it: in names of folders and in attributes.

use std::fs;

use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};

/// Now, in local time.
///
/// What this machine says of its time zone is one small file; its name, for which the whole data base would be searched, nobody
/// asks for. Where there is no such file, or `TZ` names another zone, the search is done all the same.
pub fn local_time() -> Zoned {
    let own = || TimeZone::tzif("local", &fs::read("/etc/localtime").ok()?).ok();
    let zone = if std::env::var_os("TZ").is_none() { own() } else { None };
    Timestamp::now().to_zoned(zone.unwrap_or_else(TimeZone::system))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_is_that_of_the_systems_own_zone() {
        let (before, ours, after) = (Zoned::now(), local_time(), Zoned::now());
        assert!((before.timestamp()..=after.timestamp()).contains(&ours.timestamp()));
        assert_eq!(ours.offset(), after.offset());
    }
}
