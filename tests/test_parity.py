"""The two paths have the same names with the same parameters, and they are those of the contract."""

import inspect

import pytest

import lmloss.numpy as ln
import lmloss.torch as lt

ONLY_NUMPY = {"value_and_grad", "check_gradient"}
ONLY_TORCH = {
    "default_device",
    "linear_cross_entropy",
    "linear_distillation_loss",
    "DistillationLoss",
    "FocalLoss",
    "InfoNCELoss",
    "HierarchicalSoftmax",
    "AdaptiveSoftmax",
    "LinearCrossEntropyLoss",
}
SHARED = sorted(set(ln.__all__) & set(lt.__all__))

PLAIN, KEYWORD, REQUIRED = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY, inspect._empty
LOSS_OPTIONS = {
    "ignore_index": -100,
    "class_weight": None,
    "token_weight": None,
    "label_smoothing": 0.0,
    "smoothing_over": "all",
    "z_loss": 0.0,
    "softcap": None,
    "reduction": "mean",
    "denominator": None,
    "validate": None,
}
TOKEN_OPTIONS = {"ignore_index": -100, "token_weight": None, "reduction": "mean", "denominator": None}
SAMPLE_OPTIONS = {"num_samples": REQUIRED, "sampling_probs": REQUIRED, "bias": None, "rng": None}
CONTRACT = {
    "focal_loss": (["logits", "targets"], {"gamma": 2.0, "alpha": 1.0, **TOKEN_OPTIONS}),
    "hinge_loss": (["logits", "targets"], {"margin": 1.0, **TOKEN_OPTIONS}),
    "brier_loss": (["logits", "targets"], TOKEN_OPTIONS),
    "distillation_loss": (
        ["student_logits", "teacher_logits", ("targets", None)],
        {
            "temperature": 2.0,
            "alpha": 0.5,
            "divergence": "forward_kl",
            "beta": 0.5,
            "validate": None,
            **TOKEN_OPTIONS,
        },
    ),
    "HuffmanTree": (["nodes", "turns", "lengths"], {}),
    "huffman_tree": (["counts"], {}),
    "hierarchical_log_prob": (["hidden", "node_weight", "tree", "targets"], {}),
    "adaptive_log_prob": (["hidden", "head", "tails", "cutoffs"], {}),
    "sampled_softmax_loss": (["hidden", "weight", "targets"], {**SAMPLE_OPTIONS, **TOKEN_OPTIONS}),
    "nce_loss": (["hidden", "weight", "targets"], {**SAMPLE_OPTIONS, **TOKEN_OPTIONS}),
    "mask_tokens": (
        ["input_ids"],
        {
            "mask_token_id": REQUIRED,
            "vocab_size": REQUIRED,
            "special_token_ids": (),
            "mask_prob": 0.15,
            "replace_prob": 0.8,
            "random_prob": 0.1,
            "word_ids": None,
            "rng": None,
        },
    ),
    "sequence_log_prob": (["logits", "targets"], {"ignore_index": -100}),
    "scheduled_sampling": (["targets", "samples"], {"keep_prob": REQUIRED, "rng": REQUIRED}),
    "reinforce_loss": (["log_probs", "rewards"], {"baseline": None}),
    "minimum_risk_loss": (["sequence_log_probs", "risks"], {"sharpness": 1.0}),
    "dpo_loss": (
        ["policy_chosen", "policy_rejected", "reference_chosen", "reference_rejected"],
        {"beta": 0.1, "label_smoothing": 0.0, "reduction": "mean"},
    ),
    "info_nce_loss": (
        ["queries", "keys"],
        {"negatives": None, "temperature": 0.07, "symmetric": False, "reduction": "mean"},
    ),
    "surprisal": (["p"], {"base": None}),
    "entropy": (["p"], {"base": None}),
    "cross_entropy_probs": (["p", "q"], {"base": None}),
    "kl_divergence": (["p", "q"], {"base": None}),
    "js_divergence": (["p", "q"], {"base": None}),
    "mutual_information": (["joint"], {"base": None}),
    "logsumexp": (["x"], {}),
    "softmax": (["logits"], {"temperature": 1.0}),
    "log_softmax": (["logits"], {"temperature": 1.0}),
    "softcap": (["logits", "cap"], {}),
    "cross_entropy": (["logits", "targets"], LOSS_OPTIONS),
    "causal_lm_loss": (["logits", "labels"], LOSS_OPTIONS),
    "masked_lm_loss": (["logits", "labels"], LOSS_OPTIONS),
    "perplexity": (["mean_nll"], {}),
    "bits_per_byte": (["total_nll", "num_bytes"], {}),
    "expected_calibration_error": (["probs", "targets"], {"bins": 15}),
    "Perplexity": ([], {"ignore_index": -100}),
}


def parameters(function):
    return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]


def public(module):
    return {
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and not inspect.ismodule(value) and name != "annotations"
    }


def test_the_namespaces_differ_by_the_names_that_the_contract_gives_to_one_path_alone():
    assert set(ln.__all__) - set(lt.__all__) == ONLY_NUMPY
    assert set(lt.__all__) - set(ln.__all__) <= ONLY_TORCH
    assert {"default_device", "DistillationLoss", "FocalLoss", "InfoNCELoss"} <= set(lt.__all__)
    assert "CrossEntropyLoss" in SHARED


def test_every_shared_name_is_held_against_the_contract():
    assert set(SHARED) - set(CONTRACT) == {"CrossEntropyLoss"}


@pytest.mark.parametrize("module", [ln, lt], ids=["numpy", "torch"])
def test_all_names_everything_public_and_nothing_else(module):
    assert public(module) == set(module.__all__)
    assert len(module.__all__) == len(set(module.__all__))


@pytest.mark.parametrize("name", SHARED)
def test_names_kinds_and_defaults_of_the_parameters_are_the_same(name):
    ours, theirs = getattr(ln, name), getattr(lt, name)
    assert parameters(ours) == parameters(theirs)
    if inspect.isclass(ours):
        shared = {m for m in dir(ours) if not m.startswith("_")} & {m for m in dir(theirs) if not m.startswith("_")}
        for method in shared - {"forward", "backward"}:
            if callable(getattr(ours, method)):
                assert parameters(getattr(ours, method)) == parameters(getattr(theirs, method))


@pytest.mark.parametrize("module", [ln, lt], ids=["numpy", "torch"])
@pytest.mark.parametrize("name", CONTRACT)
def test_the_parameters_are_those_of_the_contract(module, name):
    positional, keywords = CONTRACT[name]
    pairs = [p if isinstance(p, tuple) else (p, REQUIRED) for p in positional]
    want = [(p, PLAIN, default) for p, default in pairs] + [(k, KEYWORD, v) for k, v in keywords.items()]
    got = parameters(getattr(module, name))
    assert got[: len(positional)] == want[: len(positional)]
    assert sorted(got[len(positional) :], key=str) == sorted(want[len(positional) :], key=str)


@pytest.mark.parametrize("name", SHARED)
def test_both_paths_document_the_same_parameters(name):
    for module in (ln, lt):
        text = inspect.getdoc(getattr(module, name))
        assert text
        assert ">>>" in text, f"{module.__name__}.{name} shows no example"
        if name in {"causal_lm_loss", "masked_lm_loss"}:
            assert "cross_entropy" in text
            continue
        for parameter, *_ in parameters(getattr(module, name)):
            assert parameter in text, f"{module.__name__}.{name} does not explain {parameter}"


def test_the_numpy_tools_have_the_parameters_of_the_contract():
    assert [p for p, *_ in parameters(ln.value_and_grad)] == ["loss"]
    assert [p for p, *_ in parameters(ln.check_gradient)][:2] == ["loss", "logits"]
    assert [p for p, *_ in parameters(ln.CrossEntropyLoss.forward)] == ["self", "logits", "targets"]
    assert parameters(ln.CrossEntropyLoss.backward)[1][0::2] == ("upstream", 1.0)
    assert parameters(lt.default_device) == []


def test_the_output_layers_have_the_parameters_of_the_contract():
    assert [p[0::2] for p in parameters(lt.HierarchicalSoftmax)] == [("in_features", REQUIRED), ("counts", REQUIRED)]
    *sizes, last = parameters(lt.AdaptiveSoftmax)
    assert [p[0::2] for p in sizes] == [("in_features", REQUIRED), ("vocab_size", REQUIRED), ("cutoffs", REQUIRED)]
    assert last == ("div_value", KEYWORD, 4.0)
    for layer in (lt.HierarchicalSoftmax, lt.AdaptiveSoftmax):
        _, hidden, targets, *options = parameters(layer.forward)
        assert (hidden[0], targets[0]) == ("hidden", "targets")
        assert options == [(name, KEYWORD, default) for name, default in TOKEN_OPTIONS.items()]
        assert [p for p, *_ in parameters(layer.log_prob)] == ["self", "hidden"]
