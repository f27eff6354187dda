//! perftest: its matrix, how a row of it is run, and its tables.

pub mod matrix;
mod run;

pub use run::run;

/// The rows under the line that begins with `#bytes`, all numbers.
pub fn rows(text: &str) -> Vec<Vec<f64>> {
    let mut in_table = false;
    let mut rows = Vec::new();
    for line in text.lines() {
        if line.trim_start().starts_with("#bytes") {
            in_table = true;
        } else if in_table {
            let numbers: Option<Vec<f64>> = line
                .split_whitespace()
                .map(|word| word.parse().ok())
                .collect();
            match numbers {
                Some(row) if !row.is_empty() => rows.push(row),
                _ if line.starts_with("---") => in_table = false,
                _ => {}
            }
        }
    }
    rows
}

/// (size, average MiB/s) of each row of a bandwidth tool.
pub fn bandwidths(text: &str) -> Vec<(u64, f64)> {
    rows(text)
        .iter()
        .filter(|r| r.len() >= 5)
        .map(|r| (r[0] as u64, r[3]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = "\
 remote address: LID 0000 QPN 0x0011 PSN 0x1
---------------------------------------------------------------------------------------
 #bytes     #iterations    BW peak[MB/sec]    BW average[MB/sec]   MsgRate[Mpps]
Conflicting CPU frequency values detected: 2000.000000 != 2100.000000. CPU Frequency is not max.
 2          1000             4.10               4.00                 2.100000
 65536      1000             9000.5             8999.25              0.143988
---------------------------------------------------------------------------------------
 3 4 5 6 7
";

    #[test]
    fn rows_of_the_table_only() {
        assert_eq!(bandwidths(SAMPLE), [(2, 4.0), (65536, 8999.25)]);
        assert!(rows("nothing here").is_empty());
    }
}
