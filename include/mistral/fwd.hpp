#pragma once

/// Declares the library and defines nothing of it, for headers that only name its classes. The default arguments of the
/// model's templates stand here, and nowhere else.

#include <mistral/base/shape.hpp>
#include <mistral/base/types.hpp>
#include <mistral/device/cpu/instruction_set.hpp>
#include <mistral/scalar/types.hpp>

namespace mistral {

// base
struct Config;
template <class T>
class MatrixView;
template <class T>
struct HostMatrix;

// device
template <class InstructionSet>
class BasicCpu;
using Cpu = BasicCpu<NativeInstructionSet>;

// model: S is the scalar of weights, C that of caches, D the device, `fixed` what is known of the attention's geometry
// at compile time
template <Scalar S, class D>
class Linear;
template <Scalar S, class D>
class RMSNorm;
template <Scalar S, class D>
class RotaryEmbedding;
template <Scalar S, class D>
class FeedForward;
template <class C, class D, Shape fixed = Shape{}>
class RollingKVCache;
template <Scalar S, class D, Shape fixed = Shape{}>
class SlidingWindowAttention;
template <Scalar S, class D, Shape fixed = Shape{}>
class GroupedQueryAttention;
template <Scalar S, class D, Shape fixed = Shape{}>
class MistralBlock;
template <class C, class D, Shape fixed = Shape{}>
class SequenceState;
template <Scalar S, class D = Cpu, Shape fixed = Shape{}>
class MistralModel;

// checkpoint
class Checkpoint;
struct LoadOptions;

// text
class Tokenizer;
class Detokenizer;

// generate
struct GenerateOptions;
struct SessionOptions;
template <class Model, class C>
class Session;
template <class Session>
class Generation;

}  // namespace mistral
