//! Small SVG charts on logarithmic axes, readable on light and on dark pages.

use std::fmt::Write;

/// A line of a chart.
pub struct Series {
    pub name: String,
    /// Size in bytes, value.
    pub points: Vec<(f64, f64)>,
}

/// One of the panels of a picture.
pub struct Panel {
    pub title: String,
    pub series: Vec<Series>,
}

const WIDTH: f64 = 470.0;
const HEIGHT: f64 = 300.0;
/// Room around the axes: left, top, right, bottom.
const MARGIN: [f64; 4] = [62.0, 30.0, 12.0, 44.0];
const LEGEND: f64 = 34.0;
const HEADING: f64 = 34.0;
const COLUMNS: usize = 2;

/// Colours that keep apart on white and on black, and for readers who do not see red and green.
const STYLE: &str = "\
text{font:12px sans-serif;fill:#24292f}.h{font-size:15px;font-weight:600}.t{font-weight:600}\
.g{stroke:#8c959f;stroke-opacity:.3}.a{stroke:#57606a;fill:none}\
.l{fill:none;stroke-width:2.2}.s0{stroke:#d1242f}.s1{stroke:#0969da}.s2{stroke:#8250df}.s3{stroke:#bf8700}\
.d0{fill:#d1242f}.d1{fill:#0969da}.d2{fill:#8250df}.d3{fill:#bf8700}\
.s1{stroke-dasharray:7 3}.s2{stroke-dasharray:2 3}.s3{stroke-dasharray:9 3 2 3}\
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.a{stroke:#9198a1}\
.s0{stroke:#ff7b72}.s1{stroke:#58a6ff}.s2{stroke:#bc8cff}.s3{stroke:#e3b341}\
.d0{fill:#ff7b72}.d1{fill:#58a6ff}.d2{fill:#bc8cff}.d3{fill:#e3b341}}";

/// A picture of all panels, which share both axes. `unit` labels the values.
pub fn picture(heading: &str, unit: &str, panels: &[Panel]) -> String {
    let values = || {
        panels
            .iter()
            .flat_map(|p| &p.series)
            .flat_map(|s| &s.points)
    };
    let (sizes, range) = (
        decades(values().map(|p| p.0), 2.0),
        decades(values().map(|p| p.1), 10.0),
    );
    let columns = panels.len().clamp(1, COLUMNS);
    let rows = panels.len().div_ceil(columns);
    let (width, height) = (
        WIDTH * columns as f64,
        HEADING + LEGEND + HEIGHT * rows as f64,
    );
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
         role=\"img\"><title>{0}</title><style>{STYLE}</style>\n<text class=\"h\" x=\"14\" y=\"22\">{0}</text>\n",
        escaped(heading)
    );
    let mut names: Vec<&str> = Vec::new();
    for series in panels.iter().flat_map(|p| &p.series) {
        if !names.contains(&series.name.as_str()) {
            names.push(&series.name);
        }
    }
    for (i, name) in names.iter().enumerate() {
        let x = 16.0 + i as f64 * 215.0;
        let y = HEADING + 10.0;
        let _ = writeln!(
            svg,
            "<path class=\"l s{i}\" d=\"M{x} {y}h34\"/><text x=\"{}\" y=\"{}\">{}</text>",
            x + 40.0,
            y + 4.0,
            escaped(name)
        );
    }
    for (i, panel) in panels.iter().enumerate() {
        let at = (
            WIDTH * (i % columns) as f64,
            HEADING + LEGEND + HEIGHT * (i / columns) as f64,
        );
        let _ = writeln!(svg, "<g transform=\"translate({} {})\">", at.0, at.1);
        draw(&mut svg, panel, &names, unit, sizes, range);
        svg.push_str("</g>\n");
    }
    svg.push_str("</svg>\n");
    svg
}

fn draw(
    svg: &mut String,
    panel: &Panel,
    names: &[&str],
    unit: &str,
    sizes: (i32, i32),
    range: (i32, i32),
) {
    let [left, top, right, bottom] = MARGIN;
    let (w, h) = (WIDTH - left - right, HEIGHT - top - bottom);
    let span = |(low, high): (i32, i32)| f64::from((high - low).max(1));
    let x = |size: f64| left + w * (size.log2() - f64::from(sizes.0)) / span(sizes);
    let y = |value: f64| top + h * (1.0 - (value.log10() - f64::from(range.0)) / span(range));
    let _ = writeln!(
        svg,
        "<text class=\"t\" x=\"{left}\" y=\"18\">{}</text>",
        escaped(&panel.title)
    );
    for power in range.0..=range.1 {
        let at = y(10f64.powi(power));
        let _ = writeln!(
            svg,
            "<path class=\"g\" d=\"M{left} {at:.1}h{w}\"/><text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            left - 6.0,
            at + 4.0,
            number(power)
        );
    }
    for power in (sizes.0..=sizes.1).filter(|p| (p - sizes.0) % 3 == 0) {
        let at = x(2f64.powi(power));
        let _ = writeln!(
            svg,
            "<path class=\"g\" d=\"M{at:.1} {top}v{h}\"/><text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            top + h + 16.0,
            size_name(power)
        );
    }
    let _ = writeln!(
        svg,
        "<path class=\"a\" d=\"M{left} {top}v{h}h{w}\"/>\
         <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">message size in bytes</text>\
         <text transform=\"translate(13 {:.1}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
        left + w / 2.0,
        top + h + 34.0,
        top + h / 2.0,
        escaped(unit)
    );
    for series in &panel.series {
        let index = names.iter().position(|n| *n == series.name).unwrap_or(0);
        let mut path = String::new();
        for (i, (size, value)) in series.points.iter().filter(|p| p.1 > 0.0).enumerate() {
            let _ = write!(
                path,
                "{}{:.1} {:.1}",
                if i == 0 { "M" } else { "L" },
                x(*size),
                y(*value)
            );
            let _ = writeln!(
                svg,
                "<circle class=\"d{index}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"2.6\"><title>{}: {size} bytes, {value:.3} {}</title></circle>",
                x(*size),
                y(*value),
                escaped(&series.name),
                escaped(unit)
            );
        }
        let _ = writeln!(svg, "<path class=\"l s{index}\" d=\"{path}\"/>");
    }
}

/// The powers of `base` around all values.
fn decades(values: impl Iterator<Item = f64>, base: f64) -> (i32, i32) {
    let (mut low, mut high) = (f64::MAX, f64::MIN);
    for value in values.filter(|v| *v > 0.0) {
        let power = value.log(base);
        (low, high) = (low.min(power), high.max(power));
    }
    if low > high {
        return (0, 1);
    }
    // A value on a power stays there, whatever the logarithm's last bit says.
    let (low, high) = ((low + 1e-9).floor() as i32, (high - 1e-9).ceil() as i32);
    (low, high.max(low + 1))
}

fn number(power: i32) -> String {
    if power >= 0 {
        format!("{}", 10f64.powi(power))
    } else {
        format!("{:.*}", power.unsigned_abs() as usize, 10f64.powi(power))
    }
}

fn size_name(power: i32) -> String {
    let unit = |shift: i32, name: &str| format!("{} {name}", 1u64 << (power - shift).clamp(0, 40));
    match power {
        ..10 => unit(0, "B"),
        10..20 => unit(10, "KiB"),
        20..30 => unit(20, "MiB"),
        _ => unit(30, "GiB"),
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_hold_all_values() {
        assert_eq!(decades([8.0, 1_048_576.0].into_iter(), 2.0), (3, 20));
        assert_eq!(decades([0.16, 950.0].into_iter(), 10.0), (-1, 3));
        assert_eq!(decades([1000.0].into_iter(), 10.0), (3, 4));
        assert_eq!(decades([0.0].into_iter(), 10.0), (0, 1));
        assert_eq!(
            (number(-2), number(0), number(3)),
            ("0.01".into(), "1".into(), "1000".into())
        );
        assert_eq!(
            (size_name(3), size_name(12), size_name(26)),
            ("8 B".into(), "4 KiB".into(), "64 MiB".into())
        );
    }

    #[test]
    fn every_point_and_name_is_drawn() {
        let series = |name: &str, v: f64| Series {
            name: name.into(),
            points: vec![(8.0, v), (4096.0, v * 3.0)],
        };
        let panel = |title: &str| Panel {
            title: title.into(),
            series: vec![series("a<b", 0.5), series("tcp", 20.0)],
        };
        let svg = picture("Latency", "us", &[panel("tag"), panel("put"), panel("get")]);
        assert_eq!(svg.matches("<circle").count(), 12);
        assert_eq!(svg.matches("a&lt;b</text>").count(), 1);
        assert_eq!(svg.matches("<g ").count(), svg.matches("</g>").count());
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
    }
}
