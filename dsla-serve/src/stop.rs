//! Stop strings, found across token borders: text is held back while it may still become one.

/// What a piece of text led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// Text that can be given out now.
    pub text: String,
    /// A stop string is complete; it and what follows it are not part of the text.
    pub hit: bool,
}

/// Looks for the stop string that is complete first (of several, the one that began first), however the text is cut
/// into pieces.
#[derive(Clone, Debug, Default)]
pub(crate) struct StopMatcher {
    stops: Vec<String>,
    held: String,
}

impl StopMatcher {
    /// `stops`: none of them empty.
    pub fn new(stops: Vec<String>) -> StopMatcher {
        StopMatcher { stops, held: String::new() }
    }

    /// More text.
    pub fn push(&mut self, piece: &str) -> Found {
        self.held.push_str(piece);
        let first = self.stops.iter().filter_map(|stop| {
            let start = self.held.find(stop.as_str())?;
            Some((start + stop.len(), start))
        });
        if let Some((_, start)) = first.min() {
            self.held.truncate(start);
            return Found { text: std::mem::take(&mut self.held), hit: true };
        }
        let keep = self.stops.iter().map(|stop| overlap(&self.held, stop)).max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - keep);
        Found { text: std::mem::replace(&mut self.held, rest), hit: false }
    }

    /// The text still held back, once no more will come.
    pub fn flush(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

/// Bytes of the longest end of `text` that is a beginning of `stop`, shorter than it.
fn overlap(text: &str, stop: &str) -> usize {
    let starts = stop.char_indices().map(|(at, _)| at).rev();
    starts.filter(|&n| n > 0).find(|&n| text.ends_with(&stop[..n])).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stream(stops: &[&str], pieces: &[&str]) -> (String, bool) {
        let mut matcher = StopMatcher::new(stops.iter().map(|s| s.to_string()).collect());
        let mut out = String::new();
        for piece in pieces {
            let found = matcher.push(piece);
            out.push_str(&found.text);
            if found.hit {
                return (out, true);
            }
        }
        out.push_str(&matcher.flush());
        (out, false)
    }

    #[test]
    fn across_borders() {
        assert_eq!(stream(&["END"], &["a E", "N", "D b"]), ("a ".into(), true));
        assert_eq!(stream(&["END"], &["a E", "N", "x"]), ("a ENx".into(), false));
        assert_eq!(stream(&["END"], &["a E", "N"]), ("a EN".into(), false));
        assert_eq!(stream(&["aab"], &["a", "a", "a", "b"]), ("a".into(), true));
        assert_eq!(stream(&["é!"], &["caf", "é", "!"]), ("caf".into(), true));
        assert_eq!(stream(&[], &["x", "y"]), ("xy".into(), false));
    }

    #[test]
    fn the_first_to_be_complete() {
        assert_eq!(stream(&["bcde", "cd"], &["abcde"]), ("ab".into(), true));
        assert_eq!(stream(&["bcde", "cd"], &["ab", "c", "d", "e"]), ("ab".into(), true));
        assert_eq!(stream(&["cd", "bcd"], &["abcd"]), ("a".into(), true));
    }

    #[test]
    fn text_that_cannot_become_a_stop_is_not_held() {
        let mut matcher = StopMatcher::new(vec!["\n\nUser:".into()]);
        assert_eq!(matcher.push("hello").text, "hello");
        assert_eq!(matcher.push(" you\n").text, " you");
        assert_eq!(matcher.push("there").text, "\nthere");
    }

    proptest! {
        /// Any cut into pieces gives what the whole text gives: everything before the first complete stop string.
        #[test]
        fn pieces_do_not_matter(
            chars in prop::collection::vec(prop::sample::select(vec!['a', 'b', 'é', '本']), 0..40),
            stops in prop::collection::vec("[abé本]{1,4}", 0..4),
            cuts in prop::collection::vec(1usize..5, 1..40),
        ) {
            let mut pieces = Vec::new();
            let mut rest = &chars[..];
            for &cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (piece, after) = rest.split_at(cut.min(rest.len()));
                pieces.push(piece.iter().collect::<String>());
                rest = after;
            }
            let text: String = chars.iter().collect();
            let ends = text.char_indices().map(|(at, c)| at + c.len_utf8());
            let first = ends.filter_map(|end| {
                stops.iter().filter(|s| text[..end].ends_with(s.as_str())).map(|s| end - s.len()).min()
            }).next();
            let want = (text[..first.unwrap_or(text.len())].to_owned(), first.is_some());
            let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            prop_assert_eq!(stream(&stops, &pieces), want);
        }
    }
}
