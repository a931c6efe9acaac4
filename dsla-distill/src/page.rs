//! Self-contained HTML pages: headings, text, tables and charts, nothing fetched.

use crate::chart::{self, Panel};
use std::fmt::Write;

/// A page, put together from top to bottom.
pub struct Page {
    title: String,
    body: String,
}

impl Page {
    /// An empty page with a title.
    pub fn new(title: &str) -> Page {
        Page { title: escape(title), body: String::new() }
    }

    /// A heading.
    pub fn heading(&mut self, text: &str) -> &mut Page {
        self.push(format_args!("<h2>{}</h2>", escape(text)))
    }

    /// A paragraph.
    pub fn text(&mut self, text: &str) -> &mut Page {
        self.push(format_args!("<p>{}</p>", escape(text)))
    }

    /// A line of code.
    pub fn code(&mut self, text: &str) -> &mut Page {
        self.push(format_args!("<p><code>{}</code></p>", escape(text)))
    }

    /// A table: the first column to the left, numbers to the right.
    pub fn table(&mut self, head: &[&str], rows: &[Vec<String>]) -> &mut Page {
        let cells = |tag: &str, cells: &mut dyn Iterator<Item = &str>| {
            cells.map(|c| format!("<{tag}>{}</{tag}>", escape(c))).collect::<String>()
        };
        self.push(format_args!("<table><tr>{}</tr>", cells("th", &mut head.iter().copied())));
        for row in rows {
            self.push(format_args!("<tr>{}</tr>", cells("td", &mut row.iter().map(String::as_str))));
        }
        self.push(format_args!("</table>"))
    }

    /// A chart ([`chart::svg`]).
    pub fn chart(&mut self, names: &[&str], x: &str, panels: &[Panel]) -> &mut Page {
        self.svg(&chart::svg(names, x, panels))
    }

    /// A picture that is SVG text already.
    pub fn svg(&mut self, svg: &str) -> &mut Page {
        self.push(format_args!("{svg}"))
    }

    /// The page as text.
    pub fn html(&self) -> String {
        let style = "body{font-family:sans-serif;max-width:900px;margin:2em auto;padding:0 1em;color:#222}\
                     table{border-collapse:collapse;margin:1em 0}td,th{border:1px solid #ccd;padding:4px 10px;text-align:right}\
                     td:first-child,th:first-child{text-align:left}code{background:#f3f4f6;padding:2px 4px;overflow-wrap:anywhere}svg{width:100%}";
        format!(
            "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>{0}</title><style>{style}</style>\n<body>\n<h1>{0}</h1>\n{1}</body></html>\n",
            self.title, self.body
        )
    }

    fn push(&mut self, line: std::fmt::Arguments) -> &mut Page {
        // Writing to a String cannot fail.
        let _ = writeln!(self.body, "{line}");
        self
    }
}

/// Text that is safe between tags and in quotes.
pub(crate) fn escape(s: &str) -> String {
    s.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_from_outside_is_text() {
        let mut page = Page::new("<b>");
        page.heading("a & b").table(&["<i>"], &[vec!["\"1\"".into()]]).code("x<y");
        let html = page.html();
        assert!(html.contains("<title>&lt;b&gt;</title>") && html.contains("a &amp; b"));
        assert!(html.contains("<th>&lt;i&gt;</th>") && html.contains("<td>&quot;1&quot;</td>"));
        assert_eq!(html.matches("<table>").count(), html.matches("</table>").count());
    }
}
