/* Sampling of a code from its logits: the same numbers as language_model/sampling.py, in double precision. */
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
