/* Decode steps of backbone and audio head on a CPU: a few rows at a time.
 *
 * A step of a small model reads a few megabytes of weights in two hundred small operations; called one by one from Python,
 * the calls take most of the time. Here a step is one call. kernels.py compiles this file on the user's machine, packs the
 * weights and defines the structures. Names and equations are those of language_model/backbone.py and
 * language_model/audio_head.py; the results agree to rounding, and a row's do not depend on the number of threads.
 */
#include "attention_int8.h"

#define SHARED_BYTES 65536 /* a past of fewer bytes in all is not shared by threads */

typedef struct {
    Norm first, second;
    Product pack, mix, gate_up, down;
} Layer;

typedef struct {
    int32_t count, width, heads, groups, head_dim, inner;
    const Layer *layers;
    Norm last;
} Backbone;

typedef struct {
    Norm first, second;
    Product pack, mix;
    const Product *up, *down; /* one for each position */
} DepthLayer;

typedef struct {
    int32_t count, width, positions, head_dim;
    const DepthLayer *layers;
    Norm last;
    const Product *heads;
    const float *const *tables; /* embeddings of each codebook */
} Head;

/* ------------------------------------------------------------------------------------------------ backbone */

/* x [w] rotated to its position; sin carries the sign of its half */
static void rotate(float *x, const float *cosine, const float *sine, int w) {
    for (int i = 0; i < w / 2; i++) {
        float first = x[i], second = x[i + w / 2];
        x[i] = first * cosine[i] + second * sine[i];
        x[i + w / 2] = second * cosine[i + w / 2] + first * sine[i + w / 2];
    }
}

/* New positions of some sequences: row i is position positions[i] of sequence slots[i]. */
typedef struct {
    const Backbone *b;
    const Memory *m;
    const int64_t *slots, *positions;
    const float *cosines, *sines; /* [turns][head_dim], taken in turn */
    int rows, turns, threads, layer;
    int64_t blocks;        /* of the longest past */
    float *packed, *parts; /* [rows][(heads + 2 groups) w], [rows][heads][blocks][w + 2] */
} Pass;

static void attend_part(const void *argument, int part) {
    const Pass *pass = argument;
    const Backbone *b = pass->b;
    const int w = b->head_dim, sharing = b->heads / b->groups, row = part / (int)pass->blocks / b->groups;
    const int group = part / (int)pass->blocks % b->groups;
    const int64_t block = part % pass->blocks, length = pass->positions[row] + 1 - block * BLOCK;
    if (length <= 0) return;
    const int64_t stride = position_bytes(pass->m->bits, w), slot = pass->slots[row], start = block * BLOCK * stride;
    const char *keys = past_of(pass->m, pass->layer, 0, slot, group), *values = past_of(pass->m, pass->layer, 1, slot, group);
    const float *query = pass->packed + ((int64_t)row * (b->heads + 2 * b->groups) + group * sharing) * w;
    float *parts = pass->parts + ((block * pass->rows + row) * b->heads + group * sharing) * (w + 2);
    const int64_t count = length < BLOCK ? length : BLOCK;
    if (pass->m->bits == 8) attend_int8(query, sharing, keys + start, values + start, count, w, parts);
    else attend_block(query, sharing, (const float *)(keys + start), (const float *)(values + start), count, w, w, parts);
}

/* packed -> keys and values into memory, mixed [rows][heads w] */
static void attend_rows(const Pass *pass, float *mixed) {
    const Backbone *b = pass->b;
    const Memory *m = pass->m;
    const int w = b->head_dim, rows = pass->rows, size = (b->heads + 2 * b->groups) * w;
    const int64_t stride = position_bytes(m->bits, w);
    int64_t past = 0;
    for (int row = 0; row < rows; row++) {
        float *current = pass->packed + (int64_t)row * size;
        for (int head = 0; head < b->heads + b->groups; head++)
            rotate(current + head * w, pass->cosines + row % pass->turns * w, pass->sines + row % pass->turns * w, w);
        for (int kind = 0; kind < 2; kind++)
            for (int group = 0; group < b->groups; group++)
                remember(current + (b->heads + kind * b->groups + group) * w, m->bits, w,
                         past_of(m, pass->layer, kind, pass->slots[row], group) + pass->positions[row] * stride);
        past += (pass->positions[row] + 1) * stride * 2 * b->groups;
    }
    const int64_t parts = pass->blocks * rows * b->groups;
    const int shared = past >= SHARED_BYTES && parts <= MAX_PARTS;
    run(attend_part, pass, (int)parts, shared ? pass->threads : 1);
    for (int row = 0; row < rows; row++)
        for (int head = 0; head < b->heads; head++)
            merge_blocks(pass->parts + ((int64_t)row * b->heads + head) * (w + 2), pass->positions[row] / BLOCK + 1,
                         (int64_t)rows * b->heads * (w + 2), w, mixed + ((int64_t)row * b->heads + head) * w);
}

/* x [rows][width] -> hidden [rows][width], in place; each row attends to all positions up to itself. Returns 0, or 1 when
 * there is no memory. */
int backbone_step(const Backbone *b, const Memory *m, int rows, float *x, const int64_t *slots, const int64_t *positions,
                  const float *cosines, const float *sines, int turns, int threads) {
    const int w = b->head_dim, width = b->width;
    int64_t longest = 0;
    for (int row = 0; row < rows; row++) longest = positions[row] + 1 > longest ? positions[row] + 1 : longest;
    const int64_t blocks = (longest + BLOCK - 1) / BLOCK;
    size_t each = (size_t)width + (size_t)(2 * b->heads + 2 * b->groups) * w + 3 * (size_t)b->inner;
    size_t parts = (size_t)blocks * b->heads * (w + 2);
    int widest = width > b->inner ? width : b->inner;
    Activations a = activations_for(rows, widest > b->heads * w ? widest : b->heads * w);
    float *normed = malloc(rows * (each + parts) * sizeof(float));
    if (!normed || !a.scale) return free(normed), free(a.scale), 1;
    float *packed = normed + (size_t)rows * width, *mixed = packed + (size_t)rows * (b->heads + 2 * b->groups) * w;
    float *up = mixed + (size_t)rows * b->heads * w, *fed = up + 2 * (size_t)rows * b->inner;
    Pass pass = {b, m, slots, positions, cosines, sines, rows, turns, threads, 0, blocks, packed, fed + (size_t)rows * b->inner};
    for (; pass.layer < b->count; pass.layer++) {
        const Layer *l = b->layers + pass.layer;
        for (int row = 0; row < rows; row++) normalise(&l->first, x + row * width, normed + row * width, width);
        multiply(&l->pack, normed, &a, rows, packed, 0, threads);
        attend_rows(&pass, mixed);
        multiply(&l->mix, mixed, &a, rows, x, 1, threads);
        for (int row = 0; row < rows; row++) normalise(&l->second, x + row * width, normed + row * width, width);
        multiply(&l->gate_up, normed, &a, rows, up, 0, threads);
        for (int row = 0; row < rows; row++) {
            float *gate = up + 2 * (size_t)row * b->inner;
            silu_times(gate, gate + b->inner, b->inner);
            memcpy(fed + (size_t)row * b->inner, gate, (size_t)b->inner * sizeof(float));
        }
        multiply(&l->down, fed, &a, rows, x, 1, threads);
    }
    for (int row = 0; row < rows; row++) normalise(&b->last, x + row * width, x + row * width, width);
    free(normed), free(a.scale);
    return 0;
}

/* ---------------------------------------------------------------------------------------------- audio head */

/* packed [3 width] of `position` -> mixed [width]; memory [positions][3 width] has those of the earlier ones */
static void attend_frame(const Head *h, const float *packed, int position, float *memory, float *mixed) {
    const int width = h->width, w = h->head_dim, stride = 3 * width;
    memcpy(memory + (size_t)position * stride, packed, (size_t)stride * sizeof(float));
    for (int head = 0; head < width / w; head++) {
        float part[w + 2];
        const float *keys = memory + width + head * w;
        attend_block(packed + head * w, 1, keys, keys + width, position + 1, stride, w, part);
        merge_blocks(part, 1, 0, w, mixed + head * w);
    }
}

/* One position of a frame: x [rows][width] -> logits [rows][size + 1]; memory [layers][rows][positions][3 width] keeps query,
 * key and value of each position. Returns 0, or 1 when there is no memory. */
int head_step(const Head *h, int rows, int position, const float *x, float *memory, float *logits, int threads) {
    const int width = h->width;
    Activations a = activations_for(rows, 2 * width);
    float *now = malloc((size_t)rows * 8 * width * sizeof(float));
    if (!now || !a.scale) return free(now), free(a.scale), 1;
    float *normed = now + (size_t)rows * width, *packed = normed + (size_t)rows * width;
    float *up = packed + 3 * (size_t)rows * width, *residual = up + 2 * (size_t)rows * width;
    memcpy(now, x, (size_t)rows * width * sizeof(float));
    for (int layer = 0; layer < h->count; layer++) {
        const DepthLayer *l = h->layers + layer;
        for (int row = 0; row < rows; row++) normalise(&l->first, now + row * width, normed + row * width, width);
        multiply(&l->pack, normed, &a, rows, packed, 0, threads);
        for (int row = 0; row < rows; row++) {
            float *frame = memory + ((size_t)layer * rows + row) * h->positions * 3 * width;
            attend_frame(h, packed + (size_t)row * 3 * width, position, frame, normed + (size_t)row * width);
        }
        multiply(&l->mix, normed, &a, rows, now, 1, threads);
        for (int row = 0; row < rows; row++) normalise(&l->second, now + row * width, residual + row * width, width);
        multiply(l->up + position, residual, &a, rows, up, 0, threads);
        gelu(up, 2 * rows * width);
        multiply(l->down + position, up, &a, rows, residual, 1, threads);
        memcpy(now, residual, (size_t)rows * width * sizeof(float));
    }
    for (int row = 0; row < rows; row++) normalise(&h->last, now + row * width, normed + row * width, width);
    multiply(h->heads + position, normed, &a, rows, logits, 0, threads);
    free(now), free(a.scale);
    return 0;
}

/* ------------------------------------------------------------------------------------------------ sampling
 * The same numbers as language_model/sampling.py, in double precision. */

#define MAX_SORTED 64

typedef struct {
    double temperature, top_p; /* temperature 0: the most likely */
    float penalty;             /* on codes that were seen; 1: none */
    int32_t top_k;             /* 1 to MAX_SORTED where the temperature is not 0 */
} Choice;

static float penalised(float logit, float penalty) { return logit > 0.0f ? logit / penalty : logit * penalty; }

/* logits [size], seen [size] or NULL, uniform in [0, 1) -> the sampled index */
static int draw(const float *logits, int size, const Choice *c, const uint8_t *seen, double uniform) {
    const int limit = c->temperature == 0.0 ? 1 : c->top_k < size ? c->top_k : size;
    float best[MAX_SORTED + 1]; /* the most likely first; of equal ones the first */
    int indices[MAX_SORTED + 1], count = 0;
    for (int i = 0; i < size; i++) {
        const float logit = seen && seen[i] ? penalised(logits[i], c->penalty) : logits[i];
        if (count == limit && !(logit > best[limit - 1])) continue;
        int at = count < limit ? count++ : limit - 1;
        for (; at > 0 && logit > best[at - 1]; at--) best[at] = best[at - 1], indices[at] = indices[at - 1];
        best[at] = logit, indices[at] = i;
    }
    if (limit == 1) return indices[0];
    double reached[MAX_SORTED], total = 0.0;
    for (int i = 0; i < count; i++) reached[i] = total += exp(((double)best[i] - (double)best[0]) / c->temperature);
    int kept = 0, rank = 0;
    while (kept < count - 1 && reached[kept] < c->top_p * total) kept++; /* the last that top_p keeps */
    while (rank < kept && reached[rank] <= uniform * reached[kept]) rank++;
    return indices[rank];
}

/* Positions `first` to `last` - 1 of a frame, each sampled from its logits and fed to the next.
 *
 * hidden [rows][width], read at position 0; sums [rows][width] of the embeddings of earlier codes, updated. logits has room for
 * those of any position. choices [rows], sizes [positions][rows] that may be sampled, uniforms [last - first][rows], seen [positions][rows]
 * (masks of codes that are penalised, updated; or NULL) -> codes [positions][rows]. Returns 0, or 1 when there is no memory. */
int head_codes(const Head *h, int rows, int first, int last, const float *hidden, float *sums, float *memory, float *logits,
               const Choice *choices, const int32_t *sizes, const double *uniforms, uint8_t *const *seen, int32_t *codes,
               int threads) {
    for (int position = first; position < last; position++) {
        if (head_step(h, rows, position, position ? sums : hidden, memory, logits, threads)) return 1;
        for (int row = 0; row < rows; row++) {
            uint8_t *mask = seen ? seen[position * rows + row] : NULL;
            const float *mine = logits + (int64_t)row * h->heads[position].out;
            const int code = draw(mine, sizes[position * rows + row], choices + row, mask, *uniforms++);
            if (mask) mask[code] = 1;
            codes[position * rows + row] = code;
            const float *embedded = h->tables[position] + (int64_t)code * h->width;
            for (int i = 0; i < h->width; i++) sums[(int64_t)row * h->width + i] += embedded[i];
        }
    }
    return 0;
}

/* hidden [rows][width] -> logits [rows][size], the next id of each row. `counts` [rows] of each id in the sequence (occurring ones
 * are penalised), `banned` [rows] masks, uniforms [rows]. Returns 0, or 1 when there is no memory. */
int text_ids(const Product *p, int rows, const float *hidden, float *logits, const Choice *choices, const int32_t *const *counts,
             const uint8_t *const *banned, const double *uniforms, int32_t *ids, int threads) {
    if (product(p, hidden, rows, logits, 0, threads)) return 1;
    for (int row = 0; row < rows; row++, logits += p->out) {
        const float penalty = choices[row].penalty;
        for (int i = 0; i < p->out; i++) {
            const float logit = counts[row][i] > 0 ? penalised(logits[i], penalty) : logits[i];
            logits[i] = banned[row][i] ? -INFINITY : logit;
        }
        ids[row] = draw(logits, p->out, choices + row, NULL, uniforms[row]);
    }
    return 0;
}
