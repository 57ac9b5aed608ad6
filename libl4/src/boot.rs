//! What the command line has for the root task.

use l4abi::bootinfo::Records;

/// The text after `--` on the kernel command line; empty if there is none. For the program in the root task's place:
/// the boot information is given to it alone.
///
/// # Panics
/// If the boot information is not well-formed.
#[must_use]
pub fn arguments() -> &'static str {
    const PAGE: u64 = 4096;
    let at = crate::kip().boot_info();
    if at == 0 || crate::sigma0::specific_page(at, 12).is_err() {
        return "";
    }
    let records = Records::new(crate::arch::module_bytes(at, PAGE)).expect("boot information");
    records
        .filter_map(|record| core::str::from_utf8(record.command_line()?).ok())
        .find_map(|line| line.strip_prefix("roottask "))
        .unwrap_or("")
}

/// The number behind `name=` in [`arguments`], decimal or with `0x`.
#[must_use]
pub fn number(arguments: &str, name: &str) -> Option<u64> {
    let value =
        arguments.split_whitespace().find_map(|w| w.strip_prefix(name)?.strip_prefix('='))?;
    match value.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => value.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn numbers() {
        let line = "seconds=60 seed=0x5EED wrong=x";
        assert_eq!(number(line, "seconds"), Some(60));
        assert_eq!(number(line, "seed"), Some(0x5EED));
        assert_eq!(number(line, "wrong"), None);
        assert_eq!(number(line, "sec"), None);
    }
}
