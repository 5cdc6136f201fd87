//! Pictures that people show: the addresses of files, which nobody fetches here.

use domain::Refusal;

const COUNT_MAX: usize = 9;
const ADDRESS_MAX: usize = 500;

/// At most nine addresses, each as [`one`] takes it.
pub fn parse(field: &str, given: Vec<String>) -> Result<Vec<String>, Refusal> {
    if given.len() > COUNT_MAX {
        return Err(Refusal::invalid(field, format!("{field} 最多 {COUNT_MAX} 张")));
    }
    given.into_iter().enumerate().map(|(i, text)| one(&format!("{field}[{i}]"), text)).collect()
}

/// The address of one picture: a cloud file, or https.
pub fn one(field: &str, text: String) -> Result<String, Refusal> {
    let known = ["cloud://", "https://"].iter().any(|scheme| text.len() > scheme.len() && text.starts_with(scheme));
    let bad = |c: char| c.is_control() || c.is_whitespace() || "<>\"'`\\".contains(c);
    if !known || text.chars().count() > ADDRESS_MAX || text.chars().any(bad) {
        return Err(Refusal::invalid(field, format!("{field} 应为云文件 ID 或 https 地址")));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_have_an_address_that_cannot_break_out() {
        for good in ["cloud://env.1234/a.png", "https://a.example/b.jpg?c=1"] {
            assert_eq!(one("images[0]", good.to_owned()).unwrap(), good);
        }
        let long = format!("https://{}", "a".repeat(500));
        for bad in ["", "cloud://", "http://a/b", "javascript:alert(1)", "https://a/\"onload=", "https://a b", &long] {
            assert!(one("images[0]", bad.to_owned()).is_err(), "{bad}");
        }
        assert!(parse("images", vec!["cloud://a".to_owned(); 10]).is_err());
    }
}
