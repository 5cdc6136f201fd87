#!/usr/bin/env python3
"""Check a draw from its public record: python3 verify_draw.py RECORD.json [ANNOUNCED.json]
Written from docs/draw.md alone. Exit 0 only if the draw holds; the BLS signature of a drand beacon is not checked here."""
import hashlib, hmac, json, re, sys
from datetime import datetime

def sha(data): return hashlib.sha256(data).hexdigest()
def mac(key, data): return hmac.new(key, data, hashlib.sha256).digest()
def is_hex(text, digits): return isinstance(text, str) and re.fullmatch("[0-9a-f]{%d}" % digits, text) is not None
def time(text):
    if not re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", text or ""): return None
    try: return datetime.fromisoformat(re.sub(r"\.\d+", lambda m: (m[0] + "000000")[:7], text).replace("Z", "+00:00")).timestamp()
    except (TypeError, ValueError, AttributeError): return None
def rules_hash(r):
    rules, b = r["rules"], r["rules"]["beacon"]
    parts = [(n, r[n]) for n in ("activityId", "roundId", "openedAt", "closedAt", "commit")]
    parts += [(n, rules.get(n)) for n in ("mode", "quota", "winRateBp")]
    parts += [("beacon." + n, b.get(n)) for n in ("source", "chain", "round", "name", "deadline")]
    parts += [(n, rules.get(n)) for n in ("quantity", "qualificationMinutes", "unused", "passUntil")]
    return sha(("jinlu-rules-v1\n" + "".join("%s=%s\n" % (n, "" if v is None else v) for n, v in parts)).encode())

CHAINS = {"52db9ba70e0cc0f6eaf7803dd07447a1f5477735fd3f661792ba94600c84e971": (1692803367, 3)}  # genesis, period

def faults(r, announced=None):
    rules, b, tickets, beacon = r["rules"], r["rules"]["beacon"], r["tickets"], r["beacon"]
    def say(bad, field, why): return ["%s: %s" % (field, why)] if bad else []
    f = say(r["version"] != 1, "version", "not 1")
    counts = [r["k"], rules["quota"], rules.get("winRateBp") or 0, b.get("round") or 0]
    f += say(any(type(c) is not int or c < 0 for c in counts), "record", "a number that is no count")
    words = [r["activityId"], r["roundId"], r["openedAt"], r["closedAt"], b.get("chain"), b.get("name"), b.get("deadline"), rules.get("passUntil")]
    f += say(any(re.search(r"[\x00-\x1f\x7f-\x9f]", w or "") for w in words), "record", "control character") + say(not r["roundId"], "roundId", "empty")
    rate = rules.get("winRateBp")
    f += say(rules["mode"] not in ("fixed", "auto") or rate is not None and not 0 <= rate <= 10000, "rules.winRateBp", "wrong mode or rate")
    f += say(r.get("status") not in (None, "drawn"), "status", "there is no draw to check")
    f += say(r.get("rulesHash") is not None and r["rulesHash"] != rules_hash(r), "rulesHash", "not that of the rules")
    f += say(not is_hex(r["commit"], 64), "commit", "not 64 lower-case hex digits")
    good = is_hex(r["seed"], 64)
    f += say(not good or sha(bytes.fromhex(r["seed"])) != r["commit"], "seed", "SHA-256 of the seed is not the published commit")
    opened, closed, drawn = time(r["openedAt"]), time(r["closedAt"]), time(r["drawnAt"])
    f += say(None in (opened, closed, drawn) or opened >= closed or drawn < closed, "drawnAt", "times are not in order")
    if b["source"] == "drand":
        sig = r.get("beaconSignature")
        f += say(not is_hex(b.get("chain"), 64), "rules.beacon.chain", "malformed") + say(not b.get("round"), "rules.beacon.round", "missing")
        f += say(not is_hex(sig, 96) or sha(bytes.fromhex(sig)) != beacon, "beacon", "not SHA-256 of beaconSignature")
        genesis, period = CHAINS.get(b.get("chain"), (None, 0))
        if genesis and b.get("round") and None not in (closed, drawn):
            published = genesis + (b["round"] - 1) * period
            f += say(published <= closed, "rules.beacon.round", "published before the close") + say(drawn < published, "drawnAt", "before the beacon")
    else:
        f += say(b["source"] not in ("none", "public") or b.get("chain") is not None or b.get("round") is not None, "rules.beacon", "wrong for the source")
        f += say(r.get("beaconSignature") is not None, "beaconSignature", "only drand has one")
        f += say(b["source"] == "none" and beacon != "", "beacon", "must be empty")
    if b["source"] == "public":
        try: text = is_hex(beacon, len(beacon)) and bytes.fromhex(beacon).decode("utf-8")
        except ValueError: text = ""
        f += say(not (b.get("name") or "").strip(), "rules.beacon.name", "missing") + say(not text, "beacon", "not UTF-8 text as lower-case hex")
    else: f += say(b.get("name") is not None, "rules.beacon.name", "only public figures have one")
    f += say(not all(is_hex(t, 32) for t in tickets), "tickets", "malformed ticket")
    f += say(any(x >= y for x, y in zip(tickets, tickets[1:])), "tickets", "not strictly ascending")
    f += say(sha("".join(t + "\n" for t in tickets).encode()) != r["ticketsHash"], "ticketsHash", "not that of the tickets")
    n = len(tickets)
    k = min(rules["quota"], n if rules["mode"] == "auto" or rate is None else n * rate // 10000)
    f += say(r["k"] != k, "k", "the rules give %d" % k)
    if good:
        key = mac(bytes.fromhex(r["seed"]), ("jinlu-draw-v1\n%s\n%s\n%s" % (r["roundId"], r["ticketsHash"], beacon)).encode())
        ranked = sorted(tickets, key=lambda t: (mac(key, t.encode()), t))
        f += say(r["winners"] != ranked[:k], "winners", "not the first k of the ranking") + say(r["waiting"] != ranked[k:], "waiting", "not the rest of it")
    for name in ("version", "roundId", "activityId", "rules", "rulesHash", "commit", "openedAt", "closedAt") if announced else ():
        f += say(r.get(name) != announced.get(name), name, "not as announced")
    for name in ("ticketsHash", "tickets") if announced and announced.get("ticketsHash") else ():
        f += say(r[name] != announced[name], name, "not as frozen")
    return f

if __name__ == "__main__":
    if len(sys.argv) not in (2, 3): sys.exit(__doc__)
    try: found = faults(*[json.load(open(name, encoding="utf-8")) for name in sys.argv[1:3]])
    except (KeyError, TypeError, AttributeError, ValueError, OSError) as error: found = ["record: cannot be read (%r)" % error]
    print("\n".join(found) or "the draw holds")
    sys.exit(1 if found else 0)
