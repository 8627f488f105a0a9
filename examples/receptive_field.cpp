// How far does information travel through layers with a sliding window? Changes one token of a sequence and shows,
// layer by layer, which positions notice. With windows of W positions and L layers it is W - 1 positions a layer, L (W
// - 1) in all, and not one further (Mistral 7B, arXiv:2310.06825, figure 1). Fails if that law is violated.
//
//   receptive_field [--layers 6] [--window 4] [--svg picture.svg]

#include <mistral/device/cpu/cpu.hpp>
#include <mistral/model/mistral_block.hpp>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <fstream>
#include <iomanip>
#include <iostream>
#include <memory>
#include <random>
#include <vector>

namespace {

using namespace mistral;

constexpr Index hidden_size = 32;
constexpr Index perturbed = 3;                         // the position whose token is changed
using Activations = std::vector<std::vector<double>>;  // of each layer, [tokens, hidden_size]

HostMatrix<double> random_matrix(Index rows, Index cols, std::mt19937& engine) {
    std::normal_distribution<double> distribution(0, 1.5 / std::sqrt(static_cast<double>(cols)));
    const auto memory = std::make_shared<std::vector<double>>(static_cast<std::size_t>(rows * cols));
    std::ranges::generate(*memory, [&] { return distribution(engine); });
    return {{memory->data(), rows, cols}, memory};
}

std::vector<MistralBlock<double, Cpu>> random_blocks(const Cpu& device, Index layers, const Shape& shape) {
    std::mt19937 engine(1);
    const Index query_size = shape.query_heads * shape.head_dim, key_size = shape.kv_heads * shape.head_dim;
    const RotaryEmbedding<double, Cpu> rotary(device, shape.head_dim, 1e4, RotaryPairing::halves);
    std::vector<MistralBlock<double, Cpu>> blocks;
    for (Index layer = 0; layer < layers; ++layer) {
        BlockWeights<double, Cpu> weights{.attention_norm = random_matrix(1, hidden_size, engine),
                                          .attention = {.query = random_matrix(query_size, hidden_size, engine),
                                                        .key = random_matrix(key_size, hidden_size, engine),
                                                        .value = random_matrix(key_size, hidden_size, engine),
                                                        .output = random_matrix(hidden_size, query_size, engine)},
                                          .feed_forward_norm = random_matrix(1, hidden_size, engine),
                                          .feed_forward = {.gate = random_matrix(64, hidden_size, engine),
                                                           .up = random_matrix(64, hidden_size, engine),
                                                           .down = random_matrix(hidden_size, 64, engine)}};
        blocks.emplace_back(device, std::move(weights), rotary, 1e-5, shape);
    }
    return blocks;
}

// The embeddings x [tokens, hidden_size], and what each block makes of them.
Activations run(const Cpu& device, const std::vector<MistralBlock<double, Cpu>>& blocks, std::vector<double> x) {
    Cpu::Workspace workspace;
    Activations activations{x};
    for (const auto& block : blocks) {
        RollingKVCache<double, Cpu> cache(device, block.shape());
        block.forward({x.data(), static_cast<Index>(x.size()) / hidden_size, hidden_size}, cache, workspace);
        activations.push_back(x);
    }
    return activations;
}

// How much each position of each layer changed when one token did: the greatest difference, [layers + 1][tokens].
std::vector<std::vector<double>> measure(Index layers, Index window, Index tokens) {
    const Cpu device;
    const auto blocks =
        random_blocks(device, layers, {.window = window, .query_heads = 4, .kv_heads = 2, .head_dim = 8});
    std::mt19937 engine(2);
    std::normal_distribution<double> distribution;
    std::vector<double> x(static_cast<std::size_t>(tokens * hidden_size));
    std::ranges::generate(x, [&] { return distribution(engine); });
    const auto before = run(device, blocks, x);
    std::generate_n(x.begin() + perturbed * hidden_size, hidden_size, [&] { return distribution(engine); });
    const auto after = run(device, blocks, x);

    std::vector<std::vector<double>> change(before.size(), std::vector<double>(static_cast<std::size_t>(tokens)));
    for (std::size_t layer = 0; layer < before.size(); ++layer)
        for (std::size_t i = 0; i < x.size(); ++i) {
            double& greatest = change[layer][i / hidden_size];
            greatest = std::max(greatest, std::abs(after[layer][i] - before[layer][i]));
        }
    return change;
}

// 0 for no change at all, else 1 (faint) to 4 (strong).
int shade(double change) {
    return change == 0 ? 0 : std::clamp(4 + static_cast<int>(std::log10(change)), 1, 4);
}

void print(const std::vector<std::vector<double>>& change) {
    constexpr const char* shades[] = {"·", "░", "▒", "▓", "█"};
    for (std::size_t layer = change.size(); layer-- > 0;) {
        std::cout << (layer == 0 ? "embedding "
                                 : "layer " + std::to_string(layer) + std::string(layer < 10 ? 3 : 2, ' '));
        for (const double of_position : change[layer]) std::cout << shades[shade(of_position)];
        std::cout << '\n';
    }
}

void write_svg(const std::vector<std::vector<double>>& change, const std::string& path) {
    constexpr std::size_t cell = 16;
    std::ofstream svg(path);
    svg << "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"" << cell * change[0].size() << "\" height=\""
        << cell * change.size() << "\">\n";
    for (std::size_t layer = 0; layer < change.size(); ++layer)
        for (std::size_t position = 0; position < change[layer].size(); ++position)
            svg << "<rect x=\"" << cell * position << "\" y=\"" << cell * (change.size() - 1 - layer) << "\" width=\""
                << cell - 1 << "\" height=\"" << cell - 1 << "\" fill=\"#d2420b\" fill-opacity=\""
                << 0.08 + 0.23 * shade(change[layer][position]) << "\"/>\n";
    svg << "</svg>\n";
    if (!svg.flush()) throw Error("cannot write " + path);
}

}  // namespace

int main(int argc, char** argv) try {
    Index layers = 6, window = 4;
    std::string svg;
    CLI::App app("Shows how far one token's information travels through layers with a sliding window.");
    app.add_option("--layers", layers)->check(CLI::Range(1, 10))->capture_default_str();
    app.add_option("--window", window)->check(CLI::Range(1, 16))->capture_default_str();
    app.add_option("--svg", svg, "File for a picture");
    CLI11_PARSE(app, argc, argv);

    const auto change = measure(layers, window, perturbed + layers * (window - 1) + 8);
    print(change);
    if (!svg.empty()) write_svg(change, svg);
    for (Index layer = 0; layer <= layers; ++layer)
        for (Index position = 0; const double of_position : change[static_cast<std::size_t>(layer)]) {
            const bool expected = perturbed <= position && position <= perturbed + layer * (window - 1);
            require((of_position != 0) == expected, "position ", position, " of layer ", layer, " changed by ",
                    of_position, ", against the law");
            ++position;
        }
    std::cout << "From position " << perturbed << " the change travels " << layers << " * (" << window
              << " - 1) = " << layers * (window - 1) << " positions on, and no further.\n";
} catch (const std::exception& error) {
    std::cerr << "receptive_field: " << error.what() << '\n';
    return 1;
}
