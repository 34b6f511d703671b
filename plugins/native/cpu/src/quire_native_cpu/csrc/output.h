// Which of a weight's columns meet in a product, and where a product goes: biased, gated and narrowed on the way.
#pragma once
#include <algorithm>

#include "product_block.h"
#include "simd_math.h"
#include "weight.h"

namespace quire {

constexpr int MOST_ROWS = 256;  // that are computed with one reading of a group's panels

// Which panels are computed beside each other. Plain: the matrix's columns in order. Gated: the columns of
// its first half beside those of its second (gate and up), so that they meet before they are stored.
struct Columns {
    const Weight& weight;
    bool gated;

    // Groups of up to so many panels.
    int groups(int panels) const {
        const int each = gated ? panels / 2 : panels;
        return (count() + each - 1) / each;
    }
    // One group's panels, gates first; returns how many they are.
    int group(int index, int most, int* panel) const {
        const int each = gated ? most / 2 : most, first = index * each, n = std::min(each, count() - first);
        for (int i = 0; i < n; i++) panel[i] = first + i;
        if (!gated) return n;
        for (int i = 0; i < n; i++) panel[n + i] = first + i + count();
        return 2 * n;
    }
    int count() const {  // of panels, or of pairs that meet
        return gated ? weight.panels() / 2 : weight.panels();
    }
};

// The part of a result that one group of panels makes.
template <typename T>
struct Target {
    T* to;  // of the result's first row, at the group's first column
    int64_t stride;
    int panels, left;  // left: the result's columns from there on
    bool gated;
    Activation activation;  // of gated columns
    floats bias[MOST_PANELS];

    // One row from its sums, a panel's behind the other's. Blocks lie within the result's columns but for the last,
    // whose end is cut off.
    void operator()(const float* sums, int row) const {
        const int n = gated ? panels / 2 : panels;
        for (int p = 0; p < n; p++) {
            floats x = load(sums + p * PANEL) + bias[p];
            if (gated) x = gate(activation, x, load(sums + (n + p) * PANEL) + bias[n + p]);
            T* const line = to + row * stride + p * PANEL;
            if (left >= (p + 1) * PANEL)
                store(x, line);
            else
                store_first(x, line, left - p * PANEL);
        }
    }

    // As if each step had been stored.
    static floats gate(Activation activation, floats gate, floats up) {
        return rounded<T>(activate<T>(activation, rounded<T>(gate))) * rounded<T>(up);
    }
};

// Where products go.
template <typename T>
struct Output {
    T* to;
    int64_t stride;
    Columns columns;
    Activation activation;  // of gated columns
    int limit;              // columns of the result, up to which it is written

    Target<T> target(const int* panel, int panels) const {
        const int column = panel[0] * PANEL;
        Target<T> target{to + column, stride, panels, limit - column, columns.gated, activation, {}};
        if (columns.weight.bias != nullptr)
            for (int p = 0; p < panels; p++) target.bias[p] = bias(panel[p]);
        return target;
    }

    floats bias(int panel) const {
        const int left = columns.weight.n - panel * PANEL;
        return load_first(static_cast<const T*>(columns.weight.bias) + panel * PANEL, left < PANEL ? left : PANEL);
    }
};

}  // namespace quire
