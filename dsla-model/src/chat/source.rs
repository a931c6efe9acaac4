//! What is changed in a template's source before it is compiled: two tags, found by a scan that knows as much of Jinja as
//! it takes not to look inside comments, raw blocks and strings.

/// The source as it is given to the engine.
///
/// `{% generation %}` and its end, by which transformers marks the assistant's own words for training, become
/// `{% if true %}` and its end: they print what is between them, and whitespace around the tags is treated as before.
///
/// `{% set ns.x = value %}` becomes `{% set ns.x = (value)|stored %}`. Namespaces are the only mutable values, so this
/// is the only door through which a value could come to contain itself; the filter (see [`super::guard`]) closes it.
pub(super) fn prepare(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    let mut raw = false;
    while let Some(start) = rest.find('{') {
        let (before, here) = rest.split_at(start);
        out.push_str(before);
        let (length, tag) = match here.as_bytes().get(1) {
            Some(b'#') if !raw => (here.find("#}").map(|i| i + 2), false),
            Some(b'{') if !raw => (closing(here, "}}"), false),
            Some(b'%') => (closing(here, "%}"), true),
            _ => (Some(1), false),
        };
        // An open end is the engine's to complain about.
        let Some(length) = length else {
            rest = here;
            break;
        };
        let (piece, after) = here.split_at(length);
        match piece.strip_prefix("{%").and_then(|p| p.strip_suffix("%}")).filter(|_| tag) {
            Some(inner) => out.push_str(&changed(inner, &mut raw).unwrap_or_else(|| piece.to_owned())),
            None => out.push_str(piece),
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

/// The length of a tag up to its end, which is not looked for in strings.
fn closing(tag: &str, end: &str) -> Option<usize> {
    let (mut quote, mut escaped) = (None, false);
    for (i, b) in tag.bytes().enumerate().skip(2) {
        match quote {
            Some(_) if escaped => escaped = false,
            Some(_) if b == b'\\' => escaped = true,
            Some(q) if b == q => quote = None,
            Some(_) => {}
            None if matches!(b, b'"' | b'\'') => quote = Some(b),
            None if tag.as_bytes()[i..].starts_with(end.as_bytes()) => return Some(i + end.len()),
            None => {}
        }
    }
    None
}

/// Another tag in place of this one, if it is one of those above.
fn changed(inner: &str, raw: &mut bool) -> Option<String> {
    let words = inner.trim_matches(['-', '+']).trim();
    match words {
        "raw" => *raw = true,
        "endraw" => *raw = false,
        _ => {}
    }
    if *raw {
        return None;
    }
    match words {
        "generation" => return Some(format!("{{%{}%}}", inner.replacen("generation", "if true", 1))),
        "endgeneration" => return Some(format!("{{%{}%}}", inner.replacen("endgeneration", "endif", 1))),
        _ => {}
    }
    let (target, value) = words.strip_prefix("set")?.split_once('=')?;
    let name = |c: char| c.is_ascii_alphanumeric() || c.is_ascii_whitespace() || "_.,()".contains(c);
    if !target.contains('.') || !target.chars().all(name) {
        return None;
    }
    let trims = |c: Option<char>| c.filter(|c| matches!(c, '-' | '+')).map(String::from).unwrap_or_default();
    let (open, close) = (trims(inner.chars().next()), trims(inner.chars().next_back()));
    Some(format!("{{%{open} set{target}=({value})|{} {close}%}}", super::guard::STORED))
}

#[cfg(test)]
mod tests {
    use super::prepare;

    #[test]
    fn changes_two_tags_and_nothing_else() {
        let cases = [
            ("a{%- generation +%}b{% endgeneration %}", "a{%- if true +%}b{% endif %}"),
            ("{%- set ns.x = a if b else 'c' -%}", "{%- set ns.x =( a if b else 'c')|stored -%}"),
            ("{%set (ns.x, y)=1, 2%}", "{% set (ns.x, y)=(1, 2)|stored %}"),
            ("{% set ns.x = '%}' %}", "{% set ns.x =( '%}')|stored %}"),
        ];
        for (source, want) in cases {
            assert_eq!(prepare(source), want);
        }
        for same in [
            "{% set x = 1 %}",
            "{% set ns.x %}block{% endset %}",
            "{% set ns.x | replace(old='a', new='b') %}block{% endset %}",
            "{# {% generation %} #}{{ '{% generation %}' }}{{ \"\\\"{% generation %}\" }}",
            "{% raw %}{% generation %}{% set ns.x = 1 %}{# {{ {% endraw %}",
            "{% if a == b.c %}",
            "{%}",
            "{{%}",
            "{",
            "{{ '",
            "é{% é",
        ] {
            assert_eq!(prepare(same), same);
        }
    }
}
