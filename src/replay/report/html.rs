//! The report as one HTML file, with charts as SVG in it: no script, nothing from elsewhere.

use std::fmt::Write as _;

use super::{
    LimitReport, Report, RuleReport,
    share::share,
    text::{caller, counted, grouped, percent},
};
use crate::{replay::timeline::Timeline, rules::span::span_text};

const STYLE: &str = include_str!("report.css");

/// The report as an HTML file.
pub fn page(report: &Report) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail, here and below.
    let _ = write!(
        out,
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>Rehearsal of {}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n\
         <h1>Rehearsal of {}</h1>\n",
        escaped(&report.rules_file),
        escaped(&report.rules_file)
    );
    for line in report.summary() {
        let _ = writeln!(out, "<p>{}</p>", escaped(&line));
    }
    for rule in &report.rules {
        push_rule(&mut out, rule);
    }
    if let Some(against) = &report.against {
        out.push_str("<section>\n<h2>What changes</h2>\n");
        for line in against.summary() {
            let _ = writeln!(out, "<p>{}</p>", escaped(&line));
        }
        for rule in &against.rules {
            let _ = writeln!(out, "<pre>{}</pre>", escaped(&rule.lines().join("\n")));
        }
        out.push_str("</section>\n");
    }
    let unread = report.unread_lines();
    if !unread.is_empty() {
        let _ = writeln!(
            out,
            "<section>\n<h2>Not read</h2>\n<pre>{}</pre>\n</section>",
            escaped(&unread.join("\n"))
        );
    }
    out.push_str("</body>\n</html>");
    out
}

/// A text as it may be within an element or an attribute.
pub(super) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\n' => out.push(c),
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

fn push_rule(out: &mut String, rule: &RuleReport) {
    let _ = writeln!(
        out,
        "<section>\n<h2>{}<small>{}</small></h2>\n<dl>",
        escaped(&rule.name),
        escaped(&rule.kind())
    );
    for (title, line) in rule.facts() {
        let _ = writeln!(out, "<dt>{title}</dt><dd>{}</dd>", escaped(&line));
    }
    for limit in &rule.limits {
        for line in limit.lines() {
            let _ = writeln!(out, "<dt>limit</dt><dd>{}</dd>", escaped(&line));
        }
    }
    out.push_str("</dl>\n");
    push_timeline(out, &rule.over_time);
    for limit in rule.limits.iter().filter(|limit| limit.callers > 0) {
        push_peaks(out, limit);
    }
    if !rule.worst.is_empty() {
        out.push_str(
            "<table>\n<tr><th>caller</th><th>requests</th><th>denied</th><th>peak</th></tr>\n",
        );
        for worst in &rule.worst {
            let _ = writeln!(
                out,
                "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
                escaped(&caller(&worst.caller)),
                grouped(worst.requests),
                grouped(worst.denied),
                worst.peak.map_or("–".to_owned(), grouped)
            );
        }
        out.push_str("</table>\n");
    }
    out.push_str("</section>\n");
}

/// The size of the charts, in the units of their `viewBox`.
const WIDTH: u64 = 720;
const HEIGHT: u64 = 120;

/// Columns: the requests of each interval, with the denied ones at the foot.
fn push_timeline(out: &mut String, line: &Timeline) {
    let most = line.requests.iter().copied().max().unwrap_or(0);
    if most == 0 {
        return;
    }
    let interval = span_text(line.seconds.saturating_mul(1_000_000));
    let _ = writeln!(
        out,
        "<figure><figcaption>Requests in each {interval}, at most {}; denied at the foot</figcaption>\n\
         <svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"requests over time\">",
        grouped(most)
    );
    let width = scaled(WIDTH, 1, line.requests.len() as u64);
    for (at, (requests, denied)) in line.requests.iter().zip(&line.denied).enumerate() {
        let x = scaled(WIDTH, at as u64, line.requests.len() as u64);
        let height = scaled(HEIGHT, *requests, most);
        let foot = scaled(HEIGHT, *denied, most);
        for (class, height) in [("all", height), ("denied", foot)] {
            if height > 0.0 {
                let y = scaled(HEIGHT, 1, 1) - height;
                let _ = writeln!(
                    out,
                    "<rect class=\"{class}\" x=\"{x:.2}\" y=\"{y:.2}\" width=\"{:.2}\" height=\"{height:.2}\"/>",
                    width * 0.9
                );
            }
        }
    }
    out.push_str("</svg></figure>\n");
}

/// What the columns of [`LimitReport::peaks`] are, in parts of the limit.
const PARTS: [&str; 8] = ["≤ ⅛", "≤ ¼", "≤ ½", "≤ 1", "≤ 2", "≤ 4", "≤ 8", "> 8"];

/// How many of [`PARTS`] are within the limit.
const WITHIN: usize = 4;

/// Columns: how many callers have which peak, beside the limit.
fn push_peaks(out: &mut String, limit: &LimitReport) {
    let most = limit.peaks.iter().copied().max().unwrap_or(0) as u64;
    let _ = writeln!(
        out,
        "<figure><figcaption>{} by the most that they used of {}</figcaption>\n\
         <svg viewBox=\"0 0 {WIDTH} {}\" role=\"img\" aria-label=\"callers by peak\">",
        counted(limit.callers as u64, "caller"),
        escaped(&limit.limit),
        HEIGHT + 40
    );
    let width = scaled(WIDTH, 1, PARTS.len() as u64);
    for (at, (callers, part)) in limit.peaks.iter().zip(PARTS).enumerate() {
        let height = scaled(HEIGHT, *callers as u64, most);
        let x = scaled(WIDTH, at as u64, PARTS.len() as u64);
        let y = scaled(HEIGHT, 1, 1) - height + 20.0;
        let class = if at < WITHIN { "all" } else { "denied" };
        let middle = x + width * 0.45;
        let callers_share = percent(share(*callers as u64, limit.callers as u64));
        let _ = writeln!(
            out,
            "<rect class=\"{class}\" x=\"{x:.2}\" y=\"{y:.2}\" width=\"{:.2}\" height=\"{height:.2}\"/>\
             <text x=\"{middle:.2}\" y=\"{:.2}\">{}</text>\
             <text x=\"{middle:.2}\" y=\"{}\">{}</text>",
            width * 0.9,
            y - 4.0,
            escaped(&callers_share),
            HEIGHT + 36,
            escaped(part)
        );
    }
    out.push_str("</svg></figure>\n");
}

/// `size * part / whole`.
#[expect(clippy::cast_precision_loss, reason = "units of a chart")]
fn scaled(size: u64, part: u64, whole: u64) -> f64 {
    size as f64 * share(part, whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_text_is_markup() {
        assert_eq!(
            escaped("<script>alert('x' & \"y\")</script>\u{1b}\u{0}"),
            "&lt;script&gt;alert(&#39;x&#39; &amp; &quot;y&quot;)&lt;/script&gt;\u{fffd}\u{fffd}"
        );
    }
}
