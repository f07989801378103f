/* Integer products and a threaded step of kernels.c against plain loops; for a processor that Python does not run on here. */
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

int main(void) {
    int failures = 0;
    for (int format = INT8; format <= INT4; format++)
        failures += check(format, 37, 131, 6, 1) + check(format, 1, 1, 1, 1) + check(format, 700, 320, 5, 3);
    return failures;
}
