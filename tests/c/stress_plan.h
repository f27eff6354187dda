/* What a round of the stress test does. Both sides make the same plan from the same seed, so that each knows what the other one
 * sends, where it lands and what it must look like; only addresses and keys are exchanged. */
#ifndef GAUDI_TEST_STRESS_PLAN_H
#define GAUDI_TEST_STRESS_PLAN_H

#include <infiniband/verbs.h>
#include <stdint.h>
#include <string.h>

enum {
    MAX_OPS = 48,
    MAX_QPS = 3,
    MAX_CUT = 8,
    WORDS = 4,               /* words for atomics of a QP and direction */
    HEAD = 64,               /* their place at the beginning of a target area; word 7 is the lane's shared counter */
    SLOT = 256 << 10,        /* receives of an SRQ */
    SLOTS = 16,
    SOURCE = 4 << 20,
};

enum kind { SEND, SEND_IMM, SEND_INV, WRITE, WRITE_IMM, READ, READ_BACK, CAS, FADD, SHARED_FADD };

/* What goes wrong in a round. */
enum fault { NOTHING, TO_ERROR, BAD_KEY, DEREG_TARGET, DEREG_SOURCE, DESTROY_QP };

struct dice {
    uint64_t x;
};

static inline uint64_t mix(uint64_t a)
{
    a = (a ^ (a >> 30)) * 0xbf58476d1ce4e5b9u;
    a = (a ^ (a >> 27)) * 0x94d049bb133111ebu;
    return a ^ (a >> 31);
}

static inline uint32_t roll(struct dice *d, uint32_t bound)
{
    d->x += 0x9e3779b97f4a7c15u;
    return bound ? (uint32_t)((mix(d->x) >> 32) % bound) : 0;
}

struct op {
    enum kind kind;
    uint8_t inlined, signaled, fence, solicited, by_window, pieces, recv_pieces;
    uint32_t len;
    uint32_t source;            /* offset in the source of whoever the data comes from */
    uint32_t target;            /* in the responder's target area, or in the requester's own for what it reads */
    uint32_t capacity, landing; /* of the receive, when it takes one: its length and place */
    uint32_t back;              /* READ_BACK: which WRITE */
    uint32_t word;
    uint64_t compare, add, before;
    uint32_t cut[MAX_CUT], recv_cut[MAX_CUT];
};

/* One direction of one QP. */
struct script {
    int ops, receives;
    uint64_t word[WORDS]; /* at the beginning */
    uint64_t shared;      /* what it adds to the shared word */
    uint32_t target_end, read_end, landing_end;
    struct op op[MAX_OPS];
};

struct lane_kind {
    const char *name;
    enum ibv_qp_type type; /* IBV_QPT_XRC_SEND: XRC */
    int srq, events, qps;
    uint32_t area; /* bytes of each area of a QP */
};

static inline int takes_receive(enum kind k)
{
    return k <= SEND_INV || k == WRITE_IMM;
}
static inline int is_send(enum kind k)
{
    return k <= SEND_INV;
}
static inline int is_atomic(enum kind k)
{
    return k >= CAS;
}
static inline int is_read(enum kind k)
{
    return k == READ || k == READ_BACK;
}

/* Cuts `len` into the pieces of an SGE list, some of which may be empty. */
static inline int cuts(struct dice *d, uint32_t len, uint32_t *cut)
{
    int n = roll(d, 3) ? 1 : 2 + (int)roll(d, MAX_CUT - 1);
    uint32_t left = len;
    if (!len)
        n = 0;
    for (int i = 0; i < n; i++) {
        cut[i] = i == n - 1 ? left : roll(d, left / 2 + 1);
        left -= cut[i];
    }
    while (n && !cut[n - 1])
        n--;
    return n;
}

static inline uint32_t some_length(struct dice *d, uint32_t most)
{
    static const uint32_t classes[] = {256, 4096, 65536, 1 << 20, 3 << 20};
    uint32_t r = roll(d, 100), c = r < 10 ? 0 : r < 45 ? classes[0] : r < 70 ? classes[1] : r < 90 ? classes[2] : r < 99 ? classes[3] : classes[4];
    uint32_t len = c ? 1 + roll(d, c) : 0;
    return len > most ? most : len;
}

/* The script of direction `side` of QP `q`. `windows`: the responder has bound one for it. */
static inline void write_script(struct script *s, const struct lane_kind *k, uint64_t seed, int q, int side, int window)
{
    struct dice d = {mix(seed ^ (uint64_t)(q * 2 + side + 1) * 0x1234567)};
    int uc = k->type == IBV_QPT_UC, writes[MAX_OPS], written = 0;
    uint64_t word[WORDS];
    s->ops = 1 + (int)roll(&d, MAX_OPS);
    s->receives = 0;
    s->shared = 0;
    s->target_end = HEAD * 2;
    s->read_end = s->landing_end = 0;
    for (int i = 0; i < WORDS; i++)
        s->word[i] = word[i] = mix(seed + (uint64_t)(i + 16 * q + 64 * side));
    for (int i = 0; i < s->ops; i++) {
        struct op *o = &s->op[i];
        memset(o, 0, sizeof *o);
        uint32_t r = roll(&d, 100);
        o->kind = r < 22 ? SEND : r < 36 ? SEND_IMM : r < 58 ? WRITE : r < 68 ? WRITE_IMM : r < 80 ? READ : r < 85 ? READ_BACK : r < 90 ? CAS : r < 96 ? FADD : SHARED_FADD;
        if (uc && (is_read(o->kind) || is_atomic(o->kind)))
            o->kind = roll(&d, 2) ? WRITE : SEND;
        if (o->kind == READ_BACK && !written)
            o->kind = READ;
        if (i == s->ops - 1) /* Behind it everything has arrived. */
            o->kind = window && roll(&d, 2) ? SEND_INV : SEND;
        uint32_t gaps = MAX_CUT * 32 + 64;
        /* An area that is full takes no more; the last one always finds room. */
        if (takes_receive(o->kind) && !k->srq && i < s->ops - 1 && s->landing_end + 4 * gaps + 512 > k->area)
            o->kind = WRITE;
        uint32_t most = k->area / 3;
        if (takes_receive(o->kind) && k->srq && most > SLOT)
            most = SLOT;
        o->len = is_atomic(o->kind) ? 8 : some_length(&d, most);
        if (o->kind == WRITE || o->kind == WRITE_IMM) {
            if (s->target_end + o->len + gaps > k->area)
                o->len = roll(&d, 100);
            o->target = s->target_end;
            if (s->target_end + o->len + gaps > k->area)
                o->len = 0;
            else
                s->target_end += o->len + 1 + roll(&d, 63);
            if (o->kind == WRITE && o->len)
                writes[written++] = i;
        }
        if (o->kind == READ_BACK) {
            o->back = (uint32_t)writes[roll(&d, (uint32_t)written)];
            o->len = s->op[o->back].len;
        }
        if (is_read(o->kind)) {
            if (s->read_end + o->len + gaps > k->area) {
                o->kind = READ;
                o->len = roll(&d, 100);
            }
            if (s->read_end + o->len + gaps > k->area)
                o->len = 0;
        }
        if ((is_read(o->kind) || is_atomic(o->kind)) && s->read_end + gaps > k->area)
            o->kind = WRITE, o->len = 0, o->target = s->target_end;
        if (is_send(o->kind) && !k->srq && s->landing_end + 2 * o->len + 4 * gaps > k->area)
            o->len = roll(&d, 64);
        if (is_read(o->kind) || is_atomic(o->kind)) {
            o->target = (s->read_end + 7) & ~7u;
            s->read_end = o->target + o->len + MAX_CUT * 32;
        }
        o->source = roll(&d, SOURCE - o->len);
        o->inlined = !is_read(o->kind) && !is_atomic(o->kind) && o->len <= 220 && roll(&d, 2);
        o->signaled = i == s->ops - 1 || roll(&d, 10) < 6;
        o->fence = roll(&d, 10) == 0 && !uc;
        o->solicited = takes_receive(o->kind) && roll(&d, 2);
        o->by_window = window && roll(&d, 2);
        o->pieces = is_atomic(o->kind) ? 1 : (uint8_t)cuts(&d, o->len, o->cut);
        if (is_atomic(o->kind)) {
            o->cut[0] = 8;
            o->word = o->kind == SHARED_FADD ? 7 : roll(&d, WORDS);
            if (o->kind == SHARED_FADD) {
                s->shared += o->add = 1 + roll(&d, 1000);
            } else {
                o->before = word[o->word];
                o->compare = roll(&d, 4) ? o->before : o->before + 1;
                o->add = mix(seed + (uint64_t)i);
                if (o->kind == FADD)
                    word[o->word] += o->add;
                else if (o->compare == o->before)
                    word[o->word] = o->add;
            }
        }
        if (takes_receive(o->kind)) {
            s->receives++;
            o->capacity = is_send(o->kind) ? o->len + (roll(&d, 2) ? roll(&d, 300) : 0) : roll(&d, 2) ? 0 : 64;
            if (!k->srq && s->landing_end + o->capacity + 3 * gaps > k->area)
                o->capacity = is_send(o->kind) ? o->len : 0;
            o->recv_pieces = (uint8_t)cuts(&d, o->capacity, o->recv_cut);
            o->landing = s->landing_end;
            s->landing_end += o->capacity + MAX_CUT * 32;
        }
    }
}

/* The words of a script after its first `ops` requests. */
static inline void words_after(const struct script *s, int ops, uint64_t *word)
{
    memcpy(word, s->word, sizeof s->word);
    for (int i = 0; i < ops; i++) {
        const struct op *o = &s->op[i];
        if (o->kind == FADD)
            word[o->word] += o->add;
        else if (o->kind == CAS && word[o->word] == o->compare)
            word[o->word] = o->add;
    }
}

/* The bytes of a source: the same on both sides. */
static inline void fill_source(unsigned char *at, uint64_t seed)
{
    for (uint32_t i = 0; i < SOURCE / 8; i++) {
        uint64_t v = mix(seed + i);
        memcpy(at + i * 8, &v, 8);
    }
}

#endif
