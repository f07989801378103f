/* Times of the compiled decode steps for a shape, without Python: a text token, and a code frame of eight codes.
 *
 *   cc -O3 -std=gnu11 -fno-math-errno -Wno-psabi -march=native -Isrc/baichuan_audio/acceleration/cpu \
 *       scripts/kernel_times.c -o kernel_times -lm -lpthread && ./kernel_times smollm2 30 200
 *
 * Arguments: nano, smollm2 or 3b (a Qwen2.5-3B); rounds; positions before the step; rows; the first format, of float32 (0),
 * bfloat16, int8 and int4 (3). Formats and one and two threads take turns. Printed are
 * the least and the median wall time, the least CPU time (of the calling thread), and the floor: weights and cache over the best
 * rate of reading 64 MB in the same run.
 */
#include "kernels.c"

#include <stdio.h>
#include <time.h>

#define MAX_ROUNDS 1000

typedef struct {
    const char *name;
    int width, heads, groups, head_dim, inner, layers, vocabulary;
} Shape;

static const Shape SHAPES[] = {{"nano", 256, 4, 2, 64, 896, 8, 2588}, {"smollm2", 576, 9, 3, 64, 1536, 30, 49152}, {"3b", 2048, 16, 2, 128, 11008, 36, 151936}};
static const char *NAMES[] = {"float32", "bfloat16", "int8", "int4"};
static uint64_t bytes_read;

static double seconds(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* Any numbers: the time does not depend on them. */
static Product weights(int out, int in, int format) {
    size_t size = (size_t)packed_bytes(out, in, format) / 64 * 64 + 64;
    uint32_t *panels = aligned_alloc(64, size);
    float *scale = calloc((size_t)out + PANEL, sizeof(float));
    memset(panels, 0x3c, size); /* 0.01 in float32 and bfloat16 */
    for (int i = 0; i < out; i++) scale[i] = 1e-4f;
    bytes_read += size;
    return (Product){panels, NULL, format == INT8 ? scale : NULL, in, out, format};
}

typedef struct {
    Backbone backbone;
    Head head;
    Product logits;
    uint64_t text_bytes, frame_bytes;
} Model;

static Model model_of(const Shape *s, int format, Norm norm) {
    Layer *layers = calloc((size_t)s->layers, sizeof *layers);
    DepthLayer *depth = calloc(1, sizeof *depth);
    Product *up = calloc(24, sizeof *up), *down = up + 8, *heads = up + 16;
    bytes_read = 0;
    for (int i = 0; i < s->layers; i++)
        layers[i] = (Layer){norm, norm, weights((s->heads + 2 * s->groups) * s->head_dim, s->width, format),
                            weights(s->width, s->heads * s->head_dim, format), weights(2 * s->inner, s->width, format),
                            weights(s->width, s->inner, format)};
    uint64_t backbone = bytes_read;
    Product logits = weights(s->vocabulary, s->width, format);
    uint64_t text = bytes_read;
    for (int i = 0; i < 8; i++) {
        up[i] = weights(2 * s->width, s->width, format), down[i] = weights(s->width, 2 * s->width, format);
        heads[i] = weights(i ? 129 : 513, s->width, format);
    }
    *depth = (DepthLayer){norm, norm, weights(3 * s->width, s->width, format), weights(s->width, s->width, format), up, down};
    return (Model){{s->layers, s->width, s->heads, s->groups, s->head_dim, s->inner, layers, norm},
                   {1, s->width, 8, s->head_dim, depth, norm, heads}, logits, text, backbone + bytes_read - text};
}

static void read_part(const void *source, int part) {
    const words *from = (const words *)source + (size_t)part * (1 << 20) / sizeof(words);
    words sums[4] = {{0}};
    for (size_t i = 0; i < (1 << 20) / sizeof(words); i += 4)
        for (int j = 0; j < 4; j++) sums[j] += from[i + j];
    sums[0] += sums[1] + sums[2] + sums[3];
    __asm__ volatile("" ::"m"(sums));
}

static int ascending(const void *a, const void *b) {
    double first = *(const double *)a, second = *(const double *)b;
    return (first > second) - (first < second);
}

int main(int count, char **arguments) {
    const Shape *s = &SHAPES[count < 2 || !strcmp(arguments[1], "nano") ? 0 : strcmp(arguments[1], "3b") ? 1 : 2];
    int rounds = count > 2 ? atoi(arguments[2]) : 30, history = count > 3 ? atoi(arguments[3]) : 200;
    int rows = count > 4 ? atoi(arguments[4]) : 1, least = count > 5 ? atoi(arguments[5]) : FP32;
    rounds = rounds < MAX_ROUNDS ? rounds : MAX_ROUNDS;
    float *ones = calloc((size_t)s->width, sizeof(float)), cosines[128], sines[128] = {0};
    for (int i = 0; i < s->width; i++) ones[i] = 1.0f;
    for (int i = 0; i < 128; i++) cosines[i] = 1.0f;
    Model models[4];
    Memory pasts[4];
    int64_t slots[64], positions[64], past_bytes[4];
    for (int row = 0; row < 64; row++) slots[row] = row, positions[row] = history;
    for (int format = least; format <= INT4; format++) {
        models[format] = model_of(s, format, (Norm){ones, 1e-6f});
        int64_t position = s->head_dim + (format < INT8 ? 0 : 4), group = (history + 1) * position, row = group * s->groups, part = row * rows;
        past_bytes[format] = part * 2 * s->layers * (format < INT8 ? 4 : 1);
        char *store = malloc((size_t)past_bytes[format]);
        memset(store, 0x3c, (size_t)past_bytes[format]);
        pasts[format] = (Memory){store, 2 * part, part, row, group, format < INT8 ? 32 : 8};
    }
    char *source = aligned_alloc(64, 64 << 20);
    memset(source, 1, 64 << 20);
    float *x = calloc((size_t)rows * s->width, sizeof(float)), *logits = calloc((size_t)rows * s->vocabulary, sizeof(float));
    float *frame = calloc((size_t)rows * 8 * 3 * s->width, sizeof(float));
    static double wall[4][2][2][MAX_ROUNDS], cpu[4][2][2][MAX_ROUNDS], reading = 1.0;
    for (int round = 0; round < rounds; round++) {
        double start = seconds(CLOCK_MONOTONIC), taken;
        run(read_part, source, 64, 1 + round % 2);
        taken = seconds(CLOCK_MONOTONIC) - start, reading = taken < reading ? taken : reading;
        for (int test = 4 * least; test < 16; test++) {
            int format = test / 4, threads = 1 + test / 2 % 2, text = test % 2 == 0;
            const Model *m = &models[format];
            for (int i = 0; i < rows * s->width; i++) x[i] = sinf((float)i);
            double begun = seconds(CLOCK_MONOTONIC), used = seconds(CLOCK_THREAD_CPUTIME_ID);
            backbone_step(&m->backbone, &pasts[format], rows, x, slots, positions, cosines, sines, 1, threads);
            if (text) product(&m->logits, x, rows, logits, 0, threads);
            for (int i = 0; !text && i < 8; i++) head_step(&m->head, rows, i, x, frame, logits, threads);
            wall[format][threads - 1][text][round] = seconds(CLOCK_MONOTONIC) - begun;
            cpu[format][threads - 1][text][round] = seconds(CLOCK_THREAD_CPUTIME_ID) - used;
        }
    }
    double rate = (64 << 20) / reading;
    printf("%s, %d rows after %d positions; reading moves %.1f GB/s\n", s->name, rows, history, rate / 1e9);
    printf("| weights | step | threads | least, ms | median | least CPU time | floor | CPU time x floor |\n");
    for (int test = 4 * least; test < 16; test++) {
        int format = test / 4, threads = test / 2 % 2, text = test % 2 == 0;
        double *w = wall[format][threads][text], *c = cpu[format][threads][text];
        uint64_t read = (text ? models[format].text_bytes : models[format].frame_bytes) + (uint64_t)past_bytes[format];
        qsort(w, (size_t)rounds, sizeof *w, ascending), qsort(c, (size_t)rounds, sizeof *c, ascending);
        printf("| %s | %s | %d | %.2f | %.2f | %.2f | %.2f | %.2f |\n", NAMES[format], text ? "text" : "frame", threads + 1,
               w[0] * 1e3, w[rounds / 2] * 1e3, c[0] * 1e3, read / rate * 1e3, c[0] * rate / read);
    }
    return 0;
}
