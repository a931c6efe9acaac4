//! What templates expect of Python: `json.dumps` spacing and number formats, `strftime`.

use minijinja::value::Kwargs;
use minijinja::{Error, ErrorKind, Value};
use serde_json::Value as Json;
use std::time::{SystemTime, UNIX_EPOCH};

fn refuse(message: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, message)
}

/// transformers' `tojson`: `json.dumps(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False)`.
pub(super) fn tojson(value: &Value, kwargs: Kwargs) -> Result<String, Error> {
    let json = serde_json::to_value(value).map_err(|e| refuse(format!("tojson: {e}")))?;
    let indent = match kwargs.get::<Option<Value>>("indent")?.filter(|v| !v.is_none()) {
        None => None,
        Some(v) => match v.as_str() {
            Some(text) => Some(text.to_owned()),
            // Deep nesting multiplies the indent: a few spaces are meant, not a gigabyte.
            None => Some(" ".repeat(v.as_usize().unwrap_or(0).min(16))),
        },
    };
    let separators = kwargs.get::<Option<Vec<String>>>("separators")?;
    let (item, key) = match (separators.as_deref(), &indent) {
        (Some([item, key]), _) => (item.clone(), key.clone()),
        (Some(_), _) => return Err(refuse("tojson: separators must be two strings".to_owned())),
        (None, None) => (", ".to_owned(), ": ".to_owned()),
        (None, Some(_)) => (",".to_owned(), ": ".to_owned()),
    };
    let style = Style {
        item,
        key,
        indent,
        ascii: kwargs.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
        sort: kwargs.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
    };
    let mut out = String::new();
    style.write(&json, 0, &mut out);
    Ok(out)
}

struct Style {
    item: String,
    key: String,
    indent: Option<String>,
    ascii: bool,
    sort: bool,
}

impl Style {
    fn write(&self, value: &Json, depth: usize, out: &mut String) {
        match value {
            Json::Null => out.push_str("null"),
            Json::Bool(b) => out.push_str(if *b { "true" } else { "false" }),
            Json::Number(n) => match n.as_f64().filter(|_| n.is_f64()) {
                Some(x) => out.push_str(&float(x)),
                None => out.push_str(&n.to_string()),
            },
            Json::String(s) => self.text(s, out),
            Json::Array(list) if list.is_empty() => out.push_str("[]"),
            Json::Array(list) => {
                out.push('[');
                for (i, v) in list.iter().enumerate() {
                    self.separate(i, depth + 1, out);
                    self.write(v, depth + 1, out);
                }
                self.line(depth, out);
                out.push(']');
            }
            Json::Object(map) if map.is_empty() => out.push_str("{}"),
            Json::Object(map) => {
                out.push('{');
                let mut entries: Vec<_> = map.iter().collect();
                if self.sort {
                    entries.sort_by_key(|(k, _)| *k);
                }
                for (i, (k, v)) in entries.into_iter().enumerate() {
                    self.separate(i, depth + 1, out);
                    self.text(k, out);
                    out.push_str(&self.key);
                    self.write(v, depth + 1, out);
                }
                self.line(depth, out);
                out.push('}');
            }
        }
    }

    fn separate(&self, i: usize, depth: usize, out: &mut String) {
        if i > 0 {
            out.push_str(&self.item);
        }
        self.line(depth, out);
    }

    fn line(&self, depth: usize, out: &mut String) {
        if let Some(indent) = &self.indent {
            out.push('\n');
            (0..depth).for_each(|_| out.push_str(indent));
        }
    }

    fn text(&self, s: &str, out: &mut String) {
        out.push('"');
        for c in s.chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                c if c < ' ' || (self.ascii && c > '~') => {
                    let mut units = [0; 2];
                    c.encode_utf16(&mut units).iter().for_each(|u| out.push_str(&format!("\\u{u:04x}")));
                }
                c => out.push(c),
            }
        }
        out.push('"');
    }
}

/// `repr` of a float: the same shortest digits as Rust's, with an exponent below 1e-4 and from 1e16.
fn float(x: f64) -> String {
    let scientific = format!("{x:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) {
        let plain = x.to_string();
        return if plain.contains('.') { plain } else { plain + ".0" };
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.unsigned_abs())
}

/// Now, in UTC (transformers takes the local time; a time zone's rules are a database that this crate does without).
pub(super) fn strftime_now(format: &str) -> Result<String, Error> {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    strftime(format, seconds)
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];

/// C's `strftime` in the C locale, the codes that templates use; `%-d` drops the zero as in glibc.
fn strftime(format: &str, unix: u64) -> Result<String, Error> {
    let (days, second) = (unix / 86_400, unix % 86_400);
    let (year, month, day, of_year) = civil(days);
    let weekday = DAYS[(days % 7) as usize];
    let name = MONTHS[(month - 1) as usize];
    let hour = second / 3600;
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut code = chars.next();
        let bare = code == Some('-');
        if bare {
            code = chars.next();
        }
        let mut number = |n: u64, width: usize| {
            let width = if bare { 1 } else { width };
            out.push_str(&format!("{n:0width$}"));
        };
        match code {
            Some('Y') => number(year, 4),
            Some('y') => number(year % 100, 2),
            Some('m') => number(month, 2),
            Some('d') => number(day, 2),
            Some('j') => number(of_year, 3),
            Some('H') => number(hour, 2),
            Some('I') => number((hour + 11) % 12 + 1, 2),
            Some('M') => number(second / 60 % 60, 2),
            Some('S') => number(second % 60, 2),
            Some('p') => out.push_str(if hour < 12 { "AM" } else { "PM" }),
            Some('B') => out.push_str(name),
            Some('b') => out.push_str(&name[..3]),
            Some('A') => out.push_str(weekday),
            Some('a') => out.push_str(&weekday[..3]),
            Some('%') => out.push('%'),
            Some(other) => return Err(refuse(format!("strftime_now: unknown code %{other}"))),
            None => return Err(refuse("strftime_now: a % at the end".to_owned())),
        }
    }
    Ok(out)
}

/// Year, month, day and day of the year of a day since 1970-01-01 (Hinnant, "chrono-compatible low-level date
/// algorithms").
fn civil(days: u64) -> (u64, u64, u64, u64) {
    let z = days + 719_468;
    let (era, of_era) = (z / 146_097, z % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    // Counted from 1 March, so that the leap day comes last.
    let from_march = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * from_march + 2) / 153;
    let day = from_march - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let of_year = if month <= 2 { from_march - 306 } else { from_march + 59 + u64::from(leap) } + 1;
    (year, month, day, of_year)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Recorded from Python 3.11: `datetime.fromtimestamp(t, timezone.utc).strftime(...)`.
    #[test]
    fn dates_as_in_python() {
        let format = "%Y-%m-%d %H:%M:%S %j %A %a %B %b %y %I %p %-d %%";
        for (unix, want) in DATES {
            assert_eq!(strftime(format, *unix).unwrap(), *want);
        }
        assert!(strftime("%Q", 0).is_err());
        assert!(strftime("100%", 0).is_err());
    }

    const DATES: &[(u64, &str)] = &[
        (0, "1970-01-01 00:00:00 001 Thursday Thu January Jan 70 12 AM 1 %"),
        (951782399, "2000-02-28 23:59:59 059 Monday Mon February Feb 00 11 PM 28 %"),
        (951868800, "2000-03-01 00:00:00 061 Wednesday Wed March Mar 00 12 AM 1 %"),
        (1709164800, "2024-02-29 00:00:00 060 Thursday Thu February Feb 24 12 AM 29 %"),
        (1735689599, "2024-12-31 23:59:59 366 Tuesday Tue December Dec 24 11 PM 31 %"),
        (1735689600, "2025-01-01 00:00:00 001 Wednesday Wed January Jan 25 12 AM 1 %"),
        (4107542399, "2100-02-28 23:59:59 059 Sunday Sun February Feb 00 11 PM 28 %"),
        (1234567890, "2009-02-13 23:31:30 044 Friday Fri February Feb 09 11 PM 13 %"),
    ];

    /// Recorded from Python 3.11: `repr(x)`.
    #[test]
    fn floats_as_in_python() {
        let cases = [
            (1.0, "1.0"),
            (0.1, "0.1"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1.5e300, "1.5e+300"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (-2.5e-7, "-2.5e-07"),
            (0.0, "0.0"),
            (123456.789, "123456.789"),
        ];
        for (x, want) in cases {
            assert_eq!(float(x), want);
        }
    }
}
