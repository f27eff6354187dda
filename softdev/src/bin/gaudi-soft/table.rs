//! Columns of text.

/// Rows under a header, each column as wide as its widest cell.
pub(crate) fn format(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width: Vec<usize> = (0..columns)
        .map(|c| {
            rows.iter()
                .filter_map(|r| r.get(c))
                .map(|s| s.chars().count())
                .max()
                .unwrap_or(0)
        })
        .collect();
    let mut out = String::new();
    for row in rows {
        let mut line = String::from(" ");
        for (cell, width) in row.iter().zip(&width) {
            line += &format!(" {cell:<width$}");
        }
        out += line.trim_end();
        out.push('\n');
    }
    out
}

pub(crate) fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_string).to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_lines_have_no_tail() {
        let text = format(&[row(["A", "LONG", "C"]), row(["wide one", "x", ""])]);
        assert_eq!(text, "  A        LONG C\n  wide one x\n");
    }
}
