"""A run's TOML file: read, changed by --set, refused with a reason, written and read again."""

from __future__ import annotations

import re
import tomllib
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from stage_cli.core.codec.config import CodecConfig, SpectralConfig
from stage_cli.core.data.config import DataConfig
from stage_cli.core.generation.config import GenerationConfig
from stage_cli.core.lm.config import LanguageModelConfig
from stage_cli.core.training.settings import (
    LORA_TARGETS,
    CodecTrainConfig,
    DataLoading,
    LogConfig,
    LoraConfig,
    ModelConfig,
    PlayerTrainConfig,
    RunConfig,
    TrainConfig,
    TrainingConfig,
    ValidateConfig,
)
from stage_cli.core.training.toml import TABLES, load_config, recipes, to_dict, to_toml
from stage_cli.errors import UsageError

ROOT = Path(__file__).parents[2]
MINIMAL = '[model]\nbase = "facebook/musicgen-small"\n[data]\nroot = "songs"\n'
CODEC = '[codec]\n[data]\nroot = "songs"\n'
SCRATCH = '[model]\ncodec = "x"\n[model.lm]\ndimension = 64\nheads = 4\n[data]\nroot = "songs"\n'


@pytest.fixture
def load(tmp_path: Path):
    """Load a TOML text with changes."""

    def read(text: str = MINIMAL, *changes: str) -> TrainingConfig:
        path = tmp_path / "mine.toml"
        path.write_text(text, encoding="utf-8")
        return load_config(str(path), changes)

    return read


def test_a_minimal_file_takes_all_defaults(load):
    config = load()
    assert config == TrainingConfig(model=ModelConfig(base="facebook/musicgen-small"), data=DataConfig(("songs",)))
    assert (config.name, config.directory) == ("mine", Path("runs/mine"))
    assert (config.run, config.train, config.validate) == (RunConfig(), TrainConfig(), ValidateConfig())
    assert (config.loading, config.log, config.lora) == (DataLoading(), LogConfig(), None)
    assert config.window_seconds == 10.0


def test_the_defaults_are_the_published_recipe(load):
    train, data = load().train, load().data
    assert (train.learning_rate, train.betas, train.weight_decay, train.optimizer) == (1e-5, (0.9, 0.95), 1e-3, "adamw")
    assert (train.clip, train.clip_at, train.schedule, train.steps) == ("value", 1.0, "constant", 100_000)
    assert (train.batch_size, train.micro_batch_size, train.accumulation(1)) == (8, 2, 4)
    assert (train.context_dropout, train.description_dropout, train.word_dropout) == (0.1, 0.5, 0.3)
    assert (train.codebook_weights, train.ema_decay, train.warmup_steps) == ((), 0.0, 0)
    assert (data.context, data.split, data.validation_songs) == ("both", "last", 24)


@pytest.mark.parametrize("stem", ["drums", "bass"])
def test_the_published_recipes(stem):
    config = load_config(stem, ["data.root=songs"])
    assert config == load_config(f"{stem}.toml", ["data.root=songs"])
    assert (config.name, config.directory, config.data.stem) == (stem, Path("runs") / stem, stem)
    assert config.model == ModelConfig(base="facebook/musicgen-small")
    assert config.train == TrainConfig()
    assert config.data == DataConfig(("songs",), stem)
    assert config.lora is None


def test_the_recipes_load_and_explain_each_key():
    assert recipes() == (
        "bass", "bundled-bass", "bundled-codec", "bundled-decoder", "bundled-drums", "drums", "lora",
        "player-drums", "tiny",
        "tiny-codec",
    )  # fmt: skip
    folder = ROOT / "stage_cli" / "core" / "training" / "recipes"
    for name in recipes():
        load_config(name, ["data.root=songs"])
        text = (folder / f"{name}.toml").read_text(encoding="utf-8")
        assert text.startswith("#")
        assert f"stage train --config {name}" in text
        unexplained = [line for line in text.splitlines() if re.match(r"\w+ =", line) and "  # " not in line]
        assert all("attention_qkv" in line for line in unexplained), name  # it has the line above to itself


def test_the_recipes_for_adapters_and_from_scratch():
    assert load_config("lora").lora == LoraConfig()
    tiny, codec = load_config("tiny"), load_config("tiny-codec")
    assert tiny.model.lm is not None
    assert codec.codec is not None
    assert codec.codec.shape == SpectralConfig()
    assert (codec.codec.shape.codebooks, codec.codec.shape.codebook_size) == (
        tiny.model.lm.codebooks,
        tiny.model.lm.codebook_size,
    )
    assert tiny.model.codec == "bundled-codec"
    assert tiny.model.from_scratch
    # What was found to listen to its context, in fewer steps.
    layout = {"context_attention": "full", "aligned_context": True, "context_convolutions": 6}
    assert tiny.model.lm == LanguageModelConfig(4, 1024, 256, 5, 4, 1024, None, **layout)
    assert tiny.model.lm == load_config("bundled-drums").model.lm
    # From scratch the first codebook needs at least half of the loss.
    assert tiny.train.loss_weights(4) == pytest.approx((3 / 5.5, 1.3 / 5.5, 0.7 / 5.5, 0.5 / 5.5))
    assert tiny.train.loss_weights(4)[0] >= 0.5
    assert tiny.train.optimizer == "muon"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[train]\nstepz = 5\n", r"unknown key train\.stepz = 5 · did you mean train\.steps\? · allowed: steps, batch"),
        ("[validate]\nstemp = 1\n", r"unknown key validate\.stemp = 1"),
        (
            "[run]\nlearning_rate = 1\n",
            r"run\.learning_rate = 1 · did you mean train\.learning_rate\? .*directory, seed",
        ),
        ("[trian]\nsteps = 5\n", r"unknown table \[trian\] · did you mean \[train\]\? · allowed: \[run\], \[model\]"),
        ("[train.more]\nx = 1\n", r"unknown table \[train\.more\]"),
        ("steps = 5\n", r"unknown key steps = 5 · did you mean train\.steps\? · allowed: the tables \[run\]"),
        ("train = 5\n", r"train cannot be 5 · allowed: a table of keys, \[train\]"),
        ("[[train]]\nsteps = 5\n", r"train cannot be \[.*allowed: a table"),
        ("[data]\nworker = 5\n", r"unknown key data\.worker = 5 · did you mean data\.workers\?"),
        ("[data]\nspede = [1, 1]\n", r"unknown key data\.spede = \[1, 1\] · did you mean data\.speed\?"),
        ("[data]\nstem = 'drums'\n", r"data\.root is missing · name a folder"),
        ("[data]\nroot = 5\n", r"data\.root cannot be 5 · allowed: a folder"),
        ("[data]\nroot = 'x'\nstem = 'drumz'\n", r"data\.stem cannot be 'drumz' · did you mean drums"),
    ],
)
def test_unknown_keys_are_named_with_what_is_allowed(load, text, message):
    others = "" if "[data]" in text else '[data]\nroot = "songs"\n'
    head, at_top = ("", text) if not text.startswith("[") else (text, "")
    with pytest.raises(UsageError, match=rf"mine\.toml: .*{message}"):
        load(f'{at_top}[model]\nbase = "x"\n{others}{head}')


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("run.seed=-1", r"run\.seed cannot be -1 · allowed: a whole number from 0 on"),
        ("run.seed=1.5", r"run\.seed cannot be 1\.5"),
        ("run.device=tpu", r"""run\.device cannot be 'tpu' · allowed: "auto", "cpu", "cuda", "cuda:N", "mps\""""),
        ("run.device=cuda:x", r"run\.device cannot be 'cuda:x'"),
        (
            "run.precision=int8",
            r'run\.precision cannot be \'int8\' · allowed: "auto", "float32", "bfloat16", "float16"',
        ),
        ("run.compile=yes", r"run\.compile cannot be 'yes' · allowed: true, false"),
        ("run.compile=1", r"run\.compile cannot be 1"),
        ("run.sharding=zero", r'run\.sharding cannot be \'zero\' · allowed: "ddp", "fsdp"'),
        ("run.directory=5", r"run\.directory cannot be 5 · allowed: a text, in quotes"),
        ("model.base=5", r"model\.base cannot be 5"),
        ("model.window_seconds=-1", r"model\.window_seconds cannot be -1 · allowed: a number above 0, up to 600"),
        ("model.window_seconds=false", r"model\.window_seconds cannot be false"),
        ("model.checkpointing=on", r"model\.checkpointing cannot be 'on'"),
        ("data.tokens=file", r'data\.tokens cannot be \'file\' · allowed: "step", "cache"'),
        ("data.workers=-1", r"data\.workers cannot be -1 · allowed: a whole number from 0 to 256"),
        ("data.cache_epochs=0", r"data\.cache_epochs cannot be 0"),
        ("train.steps=0", r"train\.steps cannot be 0 · allowed: a whole number from 1 on"),
        ("train.steps=many", r"train\.steps cannot be 'many'"),
        ("train.steps=true", r"train\.steps cannot be true"),
        ("train.steps=100.0", r"train\.steps cannot be 100\.0"),
        ("train.learning_rate=0", r"train\.learning_rate cannot be 0 · allowed: a number above 0, up to 1"),
        ("train.learning_rate=nan", r"train\.learning_rate cannot be nan"),
        ("train.betas=[0.9]", r"train\.betas cannot be \[0\.9\] · allowed: a list of two numbers from 0 to below 1"),
        ("train.betas=[0.9, 1.0]", r"train\.betas cannot be \[0\.9, 1\.0\]"),
        ("train.optimizer=sgd", r'train\.optimizer cannot be \'sgd\' · allowed: "adamw", "muon"'),
        ("train.schedule=linear", r'allowed: "constant", "cosine"'),
        ("train.clip=l2", r'train\.clip cannot be \'l2\' · allowed: "value", "norm", "none"'),
        ("train.codebook_weights=[0, 0]", r"train\.codebook_weights cannot be \[0, 0\] · allowed: .*not all 0"),
        ("train.codebook_weights=[1, -1]", r"train\.codebook_weights cannot be \[1, -1\]"),
        ("train.codebook_weights=1", r"train\.codebook_weights cannot be 1"),
        ("train.context_dropout=1.5", r"train\.context_dropout cannot be 1\.5 · allowed: a number from 0 to 1"),
        ("train.ema_decay=1", r"train\.ema_decay cannot be 1 · allowed: a number from 0 to below 1"),
        ("train.keep_last=0", r"train\.keep_last cannot be 0"),
        ("train.trainable=text", r'train\.trainable cannot be \'text\' · allowed: "all"'),
        ("lora.rank=0", r"lora\.rank cannot be 0"),
        ("lora.dropout=1", r"lora\.dropout cannot be 1"),
        ("lora.targets=[]", r"lora\.targets cannot be \[\] · allowed: a list of one or more of \"attention_qkv\""),
        ('lora.targets=["q"]', r"lora\.targets cannot be \['q'\]"),
        ('lora.targets=["text_q", "text_q"]', r"lora\.targets"),
        ("validate.every=-1", r"validate\.every cannot be -1"),
        ("validate.demo_top_k=1.5", r"validate\.demo_top_k"),
        ("log.every=0", r"log\.every cannot be 0"),
        ("log.wandb=online", r"log\.wandb cannot be 'online'"),
        ("log.wandb_project=", r"log\.wandb_project cannot be '' · allowed: a name"),
        ("train.stepz=5", r"unknown key train\.stepz = 5 · did you mean train\.steps"),
        ("trian.steps=5", r"unknown table \[trian\] · did you mean \[train\]"),
        ("data.speed=fast", r"data\.speed cannot be 'fast'"),
    ],
)
def test_values_are_checked_and_the_option_is_named(load, change, message):
    with pytest.raises(UsageError, match=rf"^`set` {re.escape(change)}: .*{message}"):
        load(MINIMAL, "train.clip_at=2", change)


@pytest.mark.parametrize("change", ["", "=", "=5", "steps=5", "train.steps", "train.=5", ".steps=5"])
def test_changes_have_a_form(load, change):
    with pytest.raises(UsageError, match=r"`set` .*is not of the form table\.key=value .*`set` train\.steps=100"):
        load(MINIMAL, change)


@pytest.mark.parametrize(
    ("text", "changes", "message"),
    [
        (
            MINIMAL,
            ["model.lm.layers=2"],
            r'model\.base = "facebook/musicgen-small" contradicts the table \[model\.lm\]',
        ),
        ("[data]\nroot = 'x'\n", [], r"neither model\.base nor the table \[model\.lm\] is there"),
        (SCRATCH, ["model.codec="], r"model\.codec is missing"),
        ("[model]\nbase = 'x/config.json'\n[data]\nroot = 'x'\n", [], r"model\.codec is missing"),
        (MINIMAL, ["model.codec=x"], r'model\.codec = "x" contradicts model\.base = "facebook/musicgen-small"'),
        (SCRATCH, ["model.lm.separator=false"], r"model\.lm\.separator cannot be false .*allowed: true"),
        (SCRATCH, ["model.text_encoder=t5"], r'text_encoder = "t5" contradicts model\.lm\.text_dimension = 0'),
        (
            MINIMAL,
            ["model.embeddings=codec"],
            r'model\.embeddings = "codec" contradicts model\.base = "facebook/musicgen',
        ),
        (SCRATCH, ["model.embeddings=t5"], r"model\.embeddings cannot be 't5' · allowed: .random., .codec."),
        (SCRATCH, ["model.lm.layers=x"], r"model\.lm\.layers cannot be 'x' · allowed: a whole number from 1"),
        (SCRATCH, ["model.lm.layer=2"], r"unknown key model\.lm\.layer = 2 · did you mean model\.lm\.layers\?"),
        (SCRATCH, ["model.lm.heads=3"], r"lm\.dimension = 64 contradicts model\.lm\.heads = 3 .*lm\.dimension = 66"),
        (
            SCRATCH,
            ["model.lm.context_convolutions=2"],
            r'model\.lm\.context_convolutions = 2 contradicts model\.lm\.context_attention = "causal"',
        ),
        (SCRATCH, ["lora.rank=4"], r"the table \[lora\] contradicts the table \[model\.lm\]"),
        (MINIMAL, ["data.tokens=cache"], r'data\.tokens = "cache" contradicts data\.speed_probability = 0\.5'),
        (
            MINIMAL,
            ["data.tokens=cache", "data.speed_probability=0"],
            r'data\.tokens = "cache" contradicts data\.pitch_probability = 0\.5',
        ),
        (MINIMAL, ["train.batch_size=7"], r"train\.batch_size = 7 contradicts train\.micro_batch_size = 2"),
        (MINIMAL, ["train.warmup_steps=5", "train.steps=4"], r"warmup_steps = 5 contradicts train\.steps = 4"),
        (
            MINIMAL,
            ["run.precision=float16", "run.device=cpu"],
            r'run\.precision = "float16" contradicts run\.device = "cpu"',
        ),
        (MINIMAL, ["data.split=none"], r'validate\.every = 1000 contradicts data\.split = "none"'),
        (MINIMAL, ["model.window_seconds=5"], r"window_seconds = 5 contradicts data\.chunk_seconds = 10"),
        (MINIMAL, ["data.chunk_seconds=4"], r"data\.context_seconds cannot be .*data\.chunk_seconds"),
    ],
)
def test_contradictions_name_both_keys(load, text, changes, message):
    with pytest.raises(UsageError, match=message):
        load(text, *changes)


def test_what_does_not_contradict(load):
    assert load(MINIMAL, "data.split=none", "validate.every=0").validate.every == 0
    cached = load(MINIMAL, "data.tokens=cache", "data.speed_probability=0", "data.pitch=0")
    assert cached.loading == DataLoading(tokens="cache")
    assert load(MINIMAL, "model.window_seconds=20").window_seconds == 20
    assert load(SCRATCH, "train.word_dropout=0.3", "train.description_dropout=0.5").model.lm.text_dimension is None
    assert load(MINIMAL, "run.precision=bfloat16", "run.device=cpu").run.precision == "bfloat16"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[train]\nsteps = \n", r"mine\.toml, line 2: not valid TOML"),
        (b"[train]\nsteps = 5\nsteps = 6\n", r"mine\.toml, line 3: not valid TOML · cannot overwrite a value"),
        (b"[data]\nroot = songs\n", r"mine\.toml, line 2: not valid TOML .*texts stand in quotes"),
        (b"[data", r"mine\.toml, (line 1|the last line): not valid TOML"),
        (b"[data]\nroot = '\xff'\n", r"mine\.toml is not UTF-8 text"),
    ],
)
def test_what_is_no_toml_names_file_and_line(tmp_path, content, message):
    (tmp_path / "mine.toml").write_bytes(content)
    with pytest.raises(UsageError, match=message):
        load_config(str(tmp_path / "mine.toml"), [])


def test_a_file_that_is_not_there(tmp_path, monkeypatch):
    with pytest.raises(
        UsageError, match=r"no file drumms · did you mean the recipe drums\? .*lora, player-drums, tiny"
    ):
        load_config("drumms", [])
    with pytest.raises(UsageError, match=r"no file .* · it is a folder"):
        load_config(str(tmp_path), [])
    with pytest.raises(UsageError, match=r"no file x/drums\.toml"):
        load_config("x/drums.toml", [])
    # A file of one's own comes before a recipe.
    monkeypatch.chdir(tmp_path)
    Path("drums").mkdir()
    assert load_config("drums", ["data.root=x"]).model.base == "facebook/musicgen-small"
    Path("drums.toml").write_text(MINIMAL.replace("musicgen-small", "musicgen-large"), encoding="utf-8")
    assert load_config("drums.toml", []).model.base == "facebook/musicgen-large"


def test_changes_take_toml_values_and_bare_words(load):
    config = load(
        MINIMAL,
        "train.steps = 1_000",
        "train.learning_rate=3e-4",
        "train.codebook_weights=[3, 1.3]",
        "data.root=/a/b=c d",
        'data.exclude=["x", "y"]',
        "run.directory='5'",
        "run.compile=true",
        "data.stem=bass",
        "model.licence=2024-01-01",
        "train.steps=2000",
        "log.wandb_project=a\nb = 5",
    )
    assert (config.train.steps, config.train.learning_rate) == (2000, 3e-4)
    assert config.train.codebook_weights == (3, 1.3)
    assert config.data.root == ("/a/b=c d",)
    assert config.data.exclude == ("x", "y")
    assert (config.run.directory, config.run.compile, config.data.stem) == ("5", True, "bass")
    assert config.model.licence == "2024-01-01"
    assert config.log.wandb_project == "a\nb = 5"


def test_a_table_inside_is_made_and_filled(load):
    config = load(SCRATCH, "model.lm.text_dimension=32", "train.micro_batch_size=8")
    assert config.model.lm == LanguageModelConfig(dimension=64, heads=4, feed_forward=256, text_dimension=32)
    assert load(MINIMAL, "lora.rank=4").lora == LoraConfig(rank=4)
    assert load(MINIMAL + "[lora]\n").lora == LoraConfig()


@pytest.mark.parametrize("name", ["drums", "bass", "lora", "tiny"])
def test_recipes_are_written_and_read_again(name, tmp_path):
    config = load_config(name, ["data.root=songs"])
    (tmp_path / "config.toml").write_text(to_toml(config), encoding="utf-8")
    again = load_config(str(tmp_path / "config.toml"), [])
    assert again == config
    assert to_toml(again) == to_toml(config)


def test_everything_is_written_and_read_again(tmp_path):
    """Every key has another value than its default; texts hold what TOML must escape."""
    hard = 'a "b" \\ \n \t \x7f \x01 é 🥁 #'
    run = RunConfig(hard, 2**40, "cuda:1", "float16", True, "fsdp", True)
    model = ModelConfig(hard, "", None, "random", hard, 600, True, hard)
    data = DataConfig(
        (hard, "b"), "any", "mix", 20.5, (1, 20.25), 0.5, 0.1, (0.5, 2), 0.0, 7, 0.0, 0.75, 0.25, 0, 9, "file", 3, 0.25,
        hard, 4, (hard, ""),
    )  # fmt: skip
    loading = DataLoading("cache", 7, 3, hard)
    train = TrainConfig(
        7, 12, 3, 0.5, (0, 0.99), 0.125, 1e-16, "adamw", 1e-300, "cosine", 5, 0.5, "none", 1e5, (1, 0.1 + 0.2), 0, 1,
        0.25, 0.75, 0.5, 0.2, 0.9999, 3, 4, 9,
    )  # fmt: skip
    lora = LoraConfig(3, 1.5, 0.25, LORA_TARGETS[:1])
    validate = ValidateConfig(3, 2, 8, 0, 4.5, 0.0, 0, 9)
    log = LogConfig(3, False, True, hard, False)
    config = TrainingConfig(
        run=run, model=model, data=data, loading=loading, train=train, lora=lora, validate=validate, log=log
    )
    defaults = TrainingConfig(model=ModelConfig(base="x"), data=DataConfig(("songs",)), lora=LoraConfig())
    written = to_dict(config)
    unchanged = [
        f"{table}.{key}"
        for table, values in to_dict(defaults).items()
        for key, value in values.items()
        if written[table][key] == value
    ]
    # which can have no other here
    assert unchanged == ["model.codec", "model.embeddings", "train.optimizer", "train.trainable"]
    (tmp_path / "all.toml").write_text(to_toml(config), encoding="utf-8")
    assert load_config(str(tmp_path / "all.toml"), []) == config
    assert tomllib.loads(to_toml(config))["train"]["codebook_weights"] == [1, 0.1 + 0.2]


def test_every_key_is_written(load):
    for text, absent in ((MINIMAL + "[lora]\n", {"model.lm"}), (SCRATCH, {"lora"})):
        content = tomllib.loads(to_toml(load(text)))
        for table, keys in TABLES.items():
            if table in absent | {"codec", "codec.shape", "player", "player.items", "player.sizes"}:
                continue
            values = content["model"]["lm"] if table == "model.lm" else dict(content[table])
            values.pop("lm", None)
            assert tuple(values) == keys, table
    # The directory is the one that is used, also from a file of another name.
    assert tomllib.loads(to_toml(load()))["run"]["directory"] == "runs/mine"


@pytest.mark.parametrize("kind", ["spectral", "encodec"])
def test_a_codec_is_a_run_of_its_own(load, kind):
    config = load(CODEC, f"codec.shape.kind={kind}", "codec.mel_weight=3", "codec.shape.codebooks=2")
    assert isinstance(config.codec, CodecTrainConfig)
    assert (config.codec.mel_weight, config.codec.shape.codebooks) == (3, 2)
    assert type(config.codec.shape) is {"spectral": SpectralConfig, "encodec": CodecConfig}[kind]
    written = tomllib.loads(to_toml(config))
    assert not {"model", "lora"} & set(written)
    assert set(written["codec"]) == {*TABLES["codec"], "shape"}
    assert load(to_toml(config)).codec == config.codec
    assert load(CODEC, "codec.shape.width=64").codec != config.codec


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("model.base=x", r"the table \[codec\] contradicts the table \[model\]"),
        ("lora.rank=4", r"the table \[codec\] contradicts the table \[lora\]"),
        ("data.tokens=cache", r'the table \[codec\] contradicts data\.tokens = "cache"'),
        ("codec.crop_seconds=20", r"codec\.crop_seconds = 20 contradicts data\.chunk_seconds = 10"),
        ("train.steps=37", r"codec\.unquantized_steps = 150 contradicts train\.steps = 37 .* to less than 148"),
        ("codec.crop_second=20", r"unknown key codec\.crop_second = 20 · did you mean codec\.crop_seconds"),
        ("codec.quietest_gain=3", r"codec\.quietest_gain cannot be 3 · allowed: a number from -60 to 0"),
        ("codec.shape.widht=3", r"\[codec\.shape\]: The codec's config has an unknown key 'widht'"),
        ("codec.shape.width=0", r"\[codec\.shape\]: The codec's config has width = 0"),
        ("codec.shape.kind=wavelet", r"\[codec\.shape\]: The codec is of an unknown kind 'wavelet'"),
    ],
)
def test_what_contradicts_a_codec(load, change, message):
    with pytest.raises(UsageError, match=message):
        load(CODEC, "data.speed_probability=0", "data.pitch_probability=0", change)


def test_muon_is_not_for_adapters(load):
    with pytest.raises(UsageError, match=r'the table \[lora\] contradicts train\.optimizer = "muon"'):
        load(MINIMAL + "[lora]\n", "train.optimizer=muon")


def test_accumulation(load):
    train = load().train
    assert [train.accumulation(processes) for processes in (1, 2, 4)] == [4, 2, 1]
    with pytest.raises(UsageError, match=r"batch_size = 8 cannot be divided among 3 processes .*a multiple of 6"):
        train.accumulation(3)


def test_loss_weights():
    assert TrainConfig().loss_weights(4) == (0.25,) * 4
    assert TrainConfig(codebook_weights=(3, 1)).loss_weights(2) == (0.75, 0.25)
    with pytest.raises(UsageError, match=r"codebook_weights has 2 numbers, the model 4 codebooks .*list of 4 numbers"):
        TrainConfig(codebook_weights=(3, 1)).loss_weights(4)


def test_demos_are_made_as_generate_does():
    validate, generate = ValidateConfig(), GenerationConfig()
    assert (validate.demo_guidance, validate.demo_temperature, validate.demo_top_k) == (
        generate.guidance,
        generate.temperature,
        generate.top_k,
    )


def test_from_scratch(tmp_path):
    assert not ModelConfig(base="facebook/musicgen-small").from_scratch
    assert ModelConfig(base="somewhere/config.json", codec="x").from_scratch
    assert ModelConfig(codec="x", lm=LanguageModelConfig()).from_scratch
    (tmp_path / "config.json").mkdir()  # a model's directory of that name
    assert not ModelConfig(base=str(tmp_path / "config.json")).from_scratch


def test_the_name_decides_nothing(load):
    config = load()
    assert replace(config, name="other") == config
    assert replace(config, name="other").directory == Path("runs/other")
    assert load(MINIMAL, "run.directory=~/x").directory == Path.home() / "x"


def documented_defaults() -> dict[str, dict[str, str]]:
    """The rows of the tables of docs/train.md, by TOML table and key."""
    page = (ROOT / "docs" / "train.md").read_text(encoding="utf-8")
    found: dict[str, dict[str, str]] = {}
    for section in re.split(r"^### ", page, flags=re.MULTILINE)[1:]:
        if match := re.match(r"`\[([\w.]+)\]`", section):
            found[match[1]] = dict(re.findall(r"^\| `(\w+)` \| (.+?) \|", section, re.MULTILINE))
    return found


def test_the_page_names_every_key_and_its_default():
    defaults = to_dict(TrainingConfig(model=ModelConfig(base="x"), data=DataConfig(("x",)), lora=LoraConfig()))
    defaults["model.lm"] = LanguageModelConfig(text_dimension=None).to_dict()
    defaults["codec"] = {key: value for key, value in asdict(CodecTrainConfig()).items() if key != "shape"}
    defaults["codec.shape"] = {**CodecConfig().to_dict(), **SpectralConfig().to_dict()}
    defaults["player"] = asdict(PlayerTrainConfig())
    defaults["player.items"], defaults["player.sizes"] = defaults["player"]["items"], defaults["player"]["sizes"]
    said = documented_defaults()
    assert list(said) == list(TABLES)
    special = {
        "run.directory": "`runs/<name of the file>`",
        "model.base": '`""`',
        "model.lm.feed_forward": "4 × `dimension`",
        "model.lm.text_dimension": "`0`",
        "data.root": "required",
    }
    for table, keys in TABLES.items():
        assert tuple(said[table]) == keys
        for key in keys:
            shown = said[table][key]
            if f"{table}.{key}" in special:
                assert shown == special[f"{table}.{key}"]
            else:
                assert tomllib.loads(f"value = {shown.strip('`')}")["value"] == defaults[table][key], f"{table}.{key}"
