//! SQL without bind parameters, for messages of the simple query protocol: several statements in one round trip, and
//! nothing that a pooler could send to two servers. A script is made of texts from this source and of values whose
//! rendering is digits, hexadecimal letters and what an address has between them. There is no way to put any other text into one.

use std::fmt::{Display, Write};
use std::net::IpAddr;
use std::time::Duration;

use sqlx::{AssertSqlSafe, SqlSafeStr, SqlStr};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::entry::EndReason;
use crate::secret::SecretHash;
use crate::store::rows::{duration_micros, to_hex, to_micros};

/// SQL under construction.
#[derive(Clone, Debug)]
pub(super) struct Script(String);

impl Script {
    pub(super) fn new(text: &'static str) -> Self {
        Self(text.to_owned())
    }

    pub(super) fn text(mut self, text: &'static str) -> Self {
        self.0.push_str(text);
        self
    }

    pub(super) fn script(mut self, script: &Script) -> Self {
        self.0.push_str(&script.0);
        self
    }

    pub(super) fn uuid(self, uuid: Uuid) -> Self {
        self.text("'").hyphenated(uuid).text("'::uuid")
    }

    /// The digits alone, for where SQL takes no expression.
    pub(super) fn hyphenated(self, uuid: Uuid) -> Self {
        self.render(uuid.as_hyphenated())
    }

    pub(super) fn hash(self, hash: &SecretHash) -> Self {
        self.render(format_args!("'\\x{}'::bytea", to_hex(&hash.0)))
    }

    pub(super) fn ip(self, ip: IpAddr) -> Self {
        self.render(format_args!("'{ip}'"))
    }

    pub(super) fn integer(self, number: i64) -> Self {
        // In brackets, or a minus would join what stands before it.
        self.render(format_args!("({number})::bigint"))
    }

    /// For ids and epochs, which start at zero and never come near the end of a `bigint`.
    pub(super) fn unsigned(self, number: u64) -> Self {
        self.integer(i64::try_from(number).unwrap_or(i64::MAX))
    }

    /// A `timestamptz`, exact to the microsecond.
    pub(super) fn time(self, at: OffsetDateTime) -> Self {
        self.text("(timestamptz 'epoch' + interval '1 microsecond' * ").integer(to_micros(at)).text(")")
    }

    pub(super) fn interval(self, duration: Duration) -> Self {
        self.text("(interval '1 microsecond' * ").integer(duration_micros(duration)).text(")")
    }

    /// The value of a time-out setting. Never zero, which would mean no limit.
    pub(super) fn milliseconds(self, duration: Duration) -> Self {
        self.render(i32::try_from(duration.as_millis()).unwrap_or(i32::MAX).max(1))
    }

    /// One of a few words.
    pub(super) fn reason(self, reason: EndReason) -> Self {
        self.text("'").text(reason.as_str()).text("'")
    }

    /// `NULL, …` so that an empty list is a list that nothing is in.
    pub(super) fn list<T>(mut self, items: &[T], mut render: impl FnMut(Self, &T) -> Self) -> Self {
        self = self.text("(NULL");
        for item in items {
            self = render(self.text(", "), item);
        }
        self.text(")")
    }

    pub(super) fn into_sql(self) -> SqlStr {
        AssertSqlSafe(self.0).into_sql_str()
    }

    fn render(mut self, value: impl Display) -> Self {
        // Writing to a String cannot fail.
        let _ = write!(self.0, "{value}");
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_render_as_typed_literals() {
        let script = Script::new("SELECT ")
            .uuid(Uuid::nil())
            .text(", ")
            .integer(-5)
            .text(", ")
            .hash(&SecretHash([0xab; 32]))
            .text(", ")
            .list::<Uuid>(&[], |script, uuid| script.uuid(*uuid));
        let expected = format!(
            "SELECT '00000000-0000-0000-0000-000000000000'::uuid, (-5)::bigint, '\\x{}'::bytea, (NULL)",
            "ab".repeat(32)
        );
        assert_eq!(script.0, expected);
    }
}
