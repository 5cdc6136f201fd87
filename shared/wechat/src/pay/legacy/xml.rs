//! The XML of APIv2: one element full of named texts, and nothing else.
//!
//! Written here and not taken from a crate, since the format is this small and the danger lies in all that XML can do besides: no
//! DOCTYPE, no entities but the five of the standard, no attributes, comments, instructions or elements within elements. What
//! this does not read nobody gets to interpret.

use std::collections::BTreeMap;

/// Real ones have some twenty fields in three kilobytes.
const BYTES_MAX: usize = 64 * 1024;
const FIELDS_MAX: usize = 100;
const NAME_MAX: usize = 64;

/// The fields, by name.
pub(crate) type Fields = BTreeMap<String, String>;

/// Not the XML that APIv2 sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotFlat;

/// Read `<ROOT><name>text</name>…</ROOT>`, texts plain or in CDATA sections.
pub(crate) fn read(bytes: &[u8], root: &str) -> Result<Fields, NotFlat> {
    if bytes.len() > BYTES_MAX {
        return Err(NotFlat);
    }
    let text = std::str::from_utf8(bytes).map_err(|_| NotFlat)?;
    let mut rest = Rest(text.strip_prefix('\u{feff}').unwrap_or(text));
    rest.space();
    if rest.take("<?xml ") {
        let declaration = rest.until("?>")?;
        if declaration.contains(['<', '>']) {
            return Err(NotFlat);
        }
        rest.space();
    }
    if rest.open()? != (root, false) {
        return Err(NotFlat);
    }
    let mut fields = Fields::new();
    loop {
        rest.space();
        if rest.close(root) {
            break;
        }
        let (name, empty) = rest.open()?;
        let value = if empty { String::new() } else { rest.value(name)? };
        // Two values for one name could be one to us and another to somebody else.
        if fields.len() >= FIELDS_MAX || fields.insert(name.to_owned(), value).is_some() {
            return Err(NotFlat);
        }
    }
    rest.space();
    if rest.0.is_empty() { Ok(fields) } else { Err(NotFlat) }
}

/// What is still unread.
struct Rest<'a>(&'a str);

impl<'a> Rest<'a> {
    fn space(&mut self) {
        self.0 = self.0.trim_start_matches([' ', '\t', '\r', '\n']);
    }

    fn take(&mut self, token: &str) -> bool {
        match self.0.strip_prefix(token) {
            Some(rest) => {
                self.0 = rest;
                true
            }
            None => false,
        }
    }

    /// Everything before the token, which is passed.
    fn until(&mut self, token: &str) -> Result<&'a str, NotFlat> {
        let (before, after) = self.0.split_once(token).ok_or(NotFlat)?;
        self.0 = after;
        Ok(before)
    }

    /// The name in an opening tag, and whether the tag closes itself (`<name/>`).
    fn open(&mut self) -> Result<(&'a str, bool), NotFlat> {
        if !self.take("<") {
            return Err(NotFlat);
        }
        let tag = self.until(">")?;
        let (name, empty) = tag.strip_suffix('/').map_or((tag, false), |name| (name.trim_end(), true));
        let known = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        let good = (1..=NAME_MAX).contains(&name.len()) && name.bytes().all(known);
        if good { Ok((name, empty)) } else { Err(NotFlat) }
    }

    fn close(&mut self, name: &str) -> bool {
        let closed =
            self.0.strip_prefix("</").and_then(|rest| rest.strip_prefix(name)).and_then(|rest| rest.strip_prefix('>'));
        closed.inspect(|rest| self.0 = rest).is_some()
    }

    /// A text up to its closing tag.
    fn value(&mut self, name: &str) -> Result<String, NotFlat> {
        let mut value = String::new();
        loop {
            if self.take("<![CDATA[") {
                value.push_str(self.until("]]>")?);
            } else if self.close(name) {
                return Ok(value);
            } else if self.0.starts_with('<') {
                return Err(NotFlat);
            } else {
                let end = self.0.find('<').ok_or(NotFlat)?;
                let (text, rest) = self.0.split_at_checked(end).ok_or(NotFlat)?;
                self.0 = rest;
                unescape(text, &mut value)?;
            }
        }
    }
}

fn unescape(text: &str, out: &mut String) -> Result<(), NotFlat> {
    let mut parts = text.split('&');
    out.push_str(parts.next().unwrap_or_default());
    for part in parts {
        let (entity, rest) = part.split_once(';').ok_or(NotFlat)?;
        out.push(match entity {
            "lt" => '<',
            "gt" => '>',
            "amp" => '&',
            "quot" => '"',
            "apos" => '\'',
            _ => return Err(NotFlat),
        });
        out.push_str(rest);
    }
    Ok(())
}
