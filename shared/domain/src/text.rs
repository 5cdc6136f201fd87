//! Checks for text that people type.

use crate::Refusal;

/// Accepts up to `max_chars` characters of any script, emoji and line breaks included, trimmed.
///
/// Control characters (NUL above all) and the bidirectional overrides that make text lie about itself are refused.
pub fn clean(field: &str, text: &str, max_chars: usize) -> Result<String, Refusal> {
    let text = text.trim();
    if text.chars().count() > max_chars {
        return Err(Refusal::invalid(field, format!("{field} 最多 {max_chars} 个字")));
    }
    let bad = |c: char| {
        (c.is_control() && c != '\n' && c != '\t' && c != '\r')
            || matches!(c, '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}' | '\u{FEFF}')
    };
    if text.chars().any(bad) {
        return Err(Refusal::invalid(field, format!("{field} 含有不允许的控制字符")));
    }
    Ok(text.to_owned())
}

/// As [`clean`], and not empty.
pub fn required(field: &str, text: &str, max_chars: usize) -> Result<String, Refusal> {
    let text = clean(field, text, max_chars)?;
    if text.is_empty() {
        return Err(Refusal::invalid(field, format!("请填写 {field}")));
    }
    Ok(text)
}

/// `138****0001`: a phone number as it may appear in a log.
pub fn mask_phone(phone: &str) -> String {
    let n = phone.chars().count();
    phone.chars().enumerate().map(|(i, c)| if i >= 3 && i + 4 < n { '*' } else { c }).collect()
}

/// The text with every mobile number in it masked.
pub fn mask_phones(text: &str) -> String {
    let mut masked = String::with_capacity(text.len());
    let mut digits = String::new();
    let flush = |digits: &mut String, masked: &mut String| {
        // With or without the country's code.
        let number = ["0086", "86", ""].iter().find_map(|code| digits.strip_prefix(code).filter(|n| n.len() == 11));
        let mobile = number.filter(|n| matches!(n.as_bytes(), [b'1', b'3'..=b'9', ..]));
        masked.push_str(&mobile.map_or_else(|| digits.clone(), mask_phone));
        digits.clear();
    };
    for c in text.chars() {
        if c.is_ascii_digit() {
            digits.push(c);
        } else {
            flush(&mut digits, &mut masked);
            masked.push(c);
        }
    }
    flush(&mut digits, &mut masked);
    masked
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn emoji_pass_and_nul_does_not() {
        assert_eq!(clean("remark", " 多放辣🌶️\n谢谢 ", 200).unwrap(), "多放辣🌶️\n谢谢");
        for bad in ["a\0b", "a\u{1b}[2J", "\u{202E}gpj.exe", "\u{7f}"] {
            let refusal = clean("remark", bad, 200).unwrap_err();
            assert_eq!(refusal.details["field"], "remark");
        }
        assert!(clean("remark", &"字".repeat(201), 200).is_err());
        assert!(required("name", "  ", 10).is_err());
    }

    #[test]
    fn phones_are_masked() {
        assert_eq!(mask_phone("13800138000"), "138****8000");
        let text = "快递员（13800138000，95338）派送YT13800138000123";
        assert_eq!(mask_phones(text), "快递员（138****8000，95338）派送YT13800138000123");
        assert_eq!(
            mask_phones("+8613800138000，008613800138000，128613800138000"),
            "+138****8000，138****8000，128613800138000"
        );
    }
}
