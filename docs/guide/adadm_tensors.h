// What a C++ program must know of a model that `adadm export` or `adadm quantize` wrote, and of an engine that was
// built from it: names of tensors, layouts, ranges. C++11 and the standard library alone.
//
// Copy this file into your program; guide/cpp.md says how the rest fits around it.

#ifndef ADADM_TENSORS_H
#define ADADM_TENSORS_H

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>

namespace adadm {

// Names of tensors.
constexpr char kLr[] = "lr";  // float32 (N, 3, H, W), RGB, 0..rgb_range; with --io uint8 uint8 (N, H, W, 3), RGB
constexpr char kSr[] = "sr";  // of the same type and layout, upscale times as high and wide; float32 is not clamped
constexpr char kFactor[] = "factor_";  // factor_0, factor_1, ..., float32 (N, 1, 1, 1): with --factors only

// Names of the models for tiles, NAME.tile.onnx and NAME.moments.onnx. B is the number of modulators.
constexpr char kStd[] = "std";          // float32 (N, B, 1, 1), in; 0 is "unknown" to the model for moments
constexpr char kMoments[] = "moments";  // float32 (N, B, 3), out: count, mean, sum of squared deviations
constexpr char kRowsInside[] = "rows_inside";        // float32 (N, 1, H, 1), in: 1 inside of a tile, 0 in its halo
constexpr char kColumnsInside[] = "columns_inside";  // float32 (N, 1, 1, W), in: the same of columns

// Fill `lr`, float32 (1, 3, height, width), from 8-bit RGB.
//   row_bytes: from one row to the next, at least 3 * width.
//   rgb_range: the value of white: `adadm.rgb_range` in the model's metadata, 255 for the bundled models.
inline void fill_lr(const std::uint8_t* rgb, std::size_t height, std::size_t width, std::size_t row_bytes,
                    float rgb_range, float* lr) {
    const float scale = static_cast<float>(rgb_range / 255.0);
    for (std::size_t c = 0; c < 3; ++c)
        for (std::size_t y = 0; y < height; ++y)
            for (std::size_t x = 0; x < width; ++x) *lr++ = static_cast<float>(rgb[y * row_bytes + 3 * x + c]) * scale;
}

// Write 8-bit RGB from `sr`, float32 (1, 3, height, width): rounded half to even, clamped to 0..255. No NaN.
inline void read_sr(const float* sr, std::size_t height, std::size_t width, std::size_t row_bytes, float rgb_range,
                    std::uint8_t* rgb) {
    const float white = static_cast<float>(255.0 / rgb_range);
    for (std::size_t c = 0; c < 3; ++c)
        for (std::size_t y = 0; y < height; ++y)
            for (std::size_t x = 0; x < width; ++x) {
                const float level = std::nearbyint(*sr++ * white);
                rgb[y * row_bytes + 3 * x + c] = static_cast<std::uint8_t>(std::min(std::max(level, 0.0f), 255.0f));
            }
}

}  // namespace adadm

#endif
