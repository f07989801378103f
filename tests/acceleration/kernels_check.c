/* Integer products and attention of kernels.c against plain loops, for any processor that can be run or emulated here. */
#include "kernels.c"

#include <stdio.h>

static uint32_t seed = 1;
static int next(int low, int high) { return low + (int)((seed = seed * 1664525u + 1013904223u) >> 8) % (high - low + 1); }

static int check(int format, int out, int in, int rows, int threads) {
    const int groups = group_count(in), low = format == INT8 ? -127 : -8, high = format == INT8 ? 127 : 7;
    int8_t *numbers = calloc((size_t)out * groups, GROUP);
    float *x = calloc((size_t)rows * in, 4), *y = calloc((size_t)rows * out, 4), *ones = calloc((size_t)out + PANEL, 4);
    uint16_t *scale = calloc((size_t)out * groups, 2);
    for (int i = 0; i < out + PANEL; i++) ones[i] = 1.0f;
    for (int i = 0; i < out * groups; i++) scale[i] = 0x3f80; /* 1 in bfloat16 */
    for (int j = 0; j < out; j++)
        for (int i = 0; i < in; i++) numbers[(int64_t)j * groups * GROUP + i] = (int8_t)next(low, high);
    for (int i = 0; i < rows * in; i++) x[i] = (float)(i % in % GROUP ? next(-127, 127) : 127); /* so every scale is 1 */
    uint8_t *panels = calloc(1, (size_t)packed_bytes(out, in, format));
    lay_out_integers(numbers, scale, out, in, format, panels);
    Product p = {panels, NULL, format == INT8 ? ones : NULL, in, out, format};
    if (product(&p, x, rows, y, 0, threads)) return 1;
    for (int row = 0; row < rows; row++)
        for (int j = 0; j < out; j++) {
            int64_t sum = 0;
            for (int i = 0; i < in; i++) sum += (int64_t)x[row * in + i] * numbers[(int64_t)j * groups * GROUP + i];
            if (y[row * out + j] != (float)sum) {
                printf("format %d: row %d output %d is %f, not %lld\n", format, row, j, y[row * out + j], (long long)sum);
                return 1;
            }
        }
    return 0;
}

/* Attention over a past in 8 bits against sums in double precision. */
static int check_attention(int heads, int length, int w) {
    const int64_t stride = position_bytes(8, w);
    char *past[2] = {calloc((size_t)length, (size_t)stride), calloc((size_t)length, (size_t)stride)};
    float *query = calloc((size_t)heads * w, sizeof(float)), *mixed = calloc((size_t)heads * (w + 2), sizeof(float));
    for (int i = 0; i < heads * w; i++) query[i] = 0.03f * (float)next(-100, 100);
    for (int kind = 0; kind < 2; kind++)
        for (int j = 0; j < length; j++) {
            float x[w];
            for (int i = 0; i < w; i++) x[i] = 0.01f * (float)next(-100, 100) * (float)(1 + j % 3);
            remember(x, 8, w, past[kind] + j * stride);
        }
    attend_int8(query, heads, past[0], past[1], length, w, mixed);
    for (int head = 0; head < heads; head++) {
        double scores[length], top = -1e30, total = 0.0;
        for (int j = 0; j < length; j++) {
            float scale;
            memcpy(&scale, past[0] + j * stride + w, sizeof scale);
            scores[j] = 0.0;
            for (int i = 0; i < w; i++) scores[j] += (double)query[head * w + i] * scale * (int8_t)past[0][j * stride + i];
            scores[j] /= sqrt((double)w), top = scores[j] > top ? scores[j] : top;
        }
        for (int j = 0; j < length; j++) total += scores[j] = exp(scores[j] - top);
        const float *own = mixed + head * (w + 2);
        for (int i = 0; i < w; i++) {
            double expected = 0.0;
            for (int j = 0; j < length; j++) {
                float scale;
                memcpy(&scale, past[1] + j * stride + w, sizeof scale);
                expected += scores[j] * scale * (int8_t)past[1][j * stride + i];
            }
            if (fabs(own[i] - expected) > 1e-3 * total) {
                printf("%d heads, %d positions of %d: %f, not %f\n", heads, length, w, own[i], expected);
                return 1;
            }
        }
        if (fabs(own[w] - total) > 1e-3 * total || fabs(own[w + 1] - top) > 1e-3) return 1;
    }
    free(past[0]), free(past[1]), free(query), free(mixed);
    return 0;
}

int main(void) {
    const int widths[] = {2, 8, 24, 32, 64, 80, 128}, lengths[] = {1, 2, 15, 17, 32, 255, 256};
    int failures = 0;
    for (int i = 0; i < 7; i++)
        for (int j = 0; j < 7; j++) failures += check_attention(1 + (i + j) % 6, lengths[j], widths[i]);
    for (int format = INT8; format <= INT4; format++)
        failures += check(format, 37, 131, 6, 1) + check(format, 1, 1, 1, 1) + check(format, 700, 320, 5, 3);
    return failures;
}
