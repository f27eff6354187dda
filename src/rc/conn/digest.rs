//! What model checks know the state of a connection by. A field that is new is named here, so that states that differ in it are told apart.

use super::Conn;
use crate::native::sim::digest::Digest;

impl Conn {
    pub fn digest(&self, now: u64, d: &mut Digest) {
        let Conn {
            win: _,
            base: _,
            peer: _,
            my_number: _,
            peer_number: _,
            nonce: _,
            lines: _,
            hello_sent,
            features: _,
            hello,
            max_recv_sge: _,
            max_dest_rd_atomic: _,
            tx_seq,
            tx_line,
            tx_lines,
            repeated,
            ack,
            heard: _,
            notified,
            last_send,
            last_imm,
            receives_used,
            expected,
            invited,
            in_seq,
            in_slot,
            in_slots: _,
            keys,
            query,
            denied,
            rnr,
            reads,
            read_end,
            inline_next,
            inline_end,
            waiting_since,
            rx_seq,
            rx_line,
            freed,
            executed,
            posted,
            armed,
            cold,
            nak,
            ack_dirty,
            ack_wake,
            out_seq,
            out_slot,
            inbound,
            responses,
            revoke_queue,
            revoking,
            revoked,
            rnr_blocked,
            invalidating,
            invalidated,
            established,
            drop_at,
            srqn,
            failed_here,
            peer_left,
            outlived,
            successor,
            closing,
            dead,
            unrung,
        } = self;
        let flags = [
            hello_sent,
            cold,
            ack_dirty,
            ack_wake,
            rnr_blocked,
            invalidating,
            established,
            failed_here,
            peer_left,
            closing,
            dead,
            unrung,
            &(*waiting_since != 0),
            &(*outlived != 0),
            &successor.is_some(),
        ];
        for f in flags {
            d.word(u64::from(*f));
        }
        d.word(hello.map_or(0, |h| h.nonce));
        let words = [
            tx_seq,
            tx_line,
            tx_lines,
            notified,
            receives_used,
            expected,
            invited,
            in_seq,
            in_slot,
            reads,
            rx_seq,
            rx_line,
            freed,
            executed,
            posted,
            armed,
            out_seq,
            out_slot,
            srqn,
        ];
        for w in words {
            d.word(u64::from(*w));
        }
        for w in ack.words() {
            d.word(w);
        }
        d.word(*inline_next as u64);
        d.value(&(
            last_send, last_imm, query, denied, nak, inline_end, read_end, repeated,
        ));
        let mut known: Vec<_> = keys.iter().collect();
        known.sort_unstable_by_key(|k| k.0);
        d.value(&known);
        d.value(&(
            inbound,
            responses,
            revoke_queue,
            revoking,
            revoked,
            invalidated,
        ));
        // Of times only which side of them we are on.
        d.value(&rnr.map(|r| (r.seq, r.left, r.deadline <= now)));
        d.value(&((*drop_at).min(2), *drop_at <= now));
    }
}
