"""The state of a training run: network, sparsifier, optimizer, average and what has happened so far, put together,
moved on an epoch at a time, and put back from a checkpoint.
"""

import copy
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.nn.parameter import is_lazy

from subp import models
from subp.common.seeds import derived_seed
from subp.data.loaders import Data, Loading, batches, mixed, train_batch_size, train_batches, val_batches
from subp.data.transforms import mixing
from subp.pruning import masking, sparse_compute
from subp.pruning.sparsifier import Sparsifier
from subp.training import checkpoint, fake_quantised, log
from subp.training.checkpoint import Checkpoint
from subp.training.config import Config
from subp.training.distributed import Ranks
from subp.training.fake_quantised import FakeQuantised
from subp.training.loop import averaged, evaluate, learning_rate, momenta, parameter_groups, set_momenta, train_epoch
from subp.training.precision import Precision
from subp.training.progress import Progress
from subp.training.run_files import images_of, settings_of
from subp_contract.errors import UserError, first_line, require
from subp_contract.modes import in_eval_mode


class TrainingRun:
    """All that a run is made of, put together and moved on an epoch at a time."""

    def __init__(
        self, data: Data, config: Config, model: nn.Module | None, weights: str | Path | None, ranks: Ranks
    ) -> None:
        self.data, self.config, self.ranks = data, config, ranks
        self.history: list[dict] = []
        self.churn: log.Churns = {}
        self.precision = Precision(config.amp, config.channels_last, ranks.device)
        self.loading = Loading(
            ranks.share(config.batch_size),
            config.workers,
            ranks.device.type == "cuda",
            config.skip_broken,
            ranks.rank,
            ranks.count,
        )
        torch.manual_seed(derived_seed(config.seed, "initialisation"))
        architecture: dict[str, Any] | None = None
        if model is None:
            architecture = {
                "name": config.model,
                "num_classes": len(data.classes),
                "in_channels": data.preprocessing.channels,
            }
            model = models.create(**architecture, weights_file=weights)
        self.model = model
        if any(map(is_lazy, model.parameters())):
            self._outputs(torch.zeros(1, *data.preprocessing.shape))  # makes their weights
        self.precision.place_model(model)
        self._require_fit()
        self.sparsifier = make_sparsifier(model, config, data.preprocessing.shape)
        self.optimizer = torch.optim.SGD(parameter_groups(model, config.weight_decay), lr=config.lr, momentum=0.9)
        if self.sparsifier:
            self.sparsifier.decay_in(self.optimizer)
        if config.sparse_compute:
            self._compute_sparsely(config.sparse_compute)
        self.about = {
            "architecture": architecture,
            "classes": data.classes,
            "preprocessing": data.preprocessing.as_dict(),
            "data": images_of(data),
            "config": settings_of(config, None if architecture else model),
            "sparsifier": self.sparsifier.settings.as_dict() if self.sparsifier else None,
        }
        # Made of the masked model, whose masks and statistics it takes over as they are: only weights are averaged.
        # (Masks that follow the weights follow the average's, once an epoch.)
        self.average = averaged(self.model, config.ema) if config.ema else None
        self.folded: nn.Module | None = None  # once the run trains for 8 bits: what `model` is made of then
        self._density = 1.0  # once masks are folded, or without any
        self._network = cast(nn.Module, torch.compile(model)) if config.compile else model  # typed as a function
        self._parallel = ranks.parallel(self._network)

    @property
    def delivered(self) -> nn.Module:
        """The network that the run is for: the one of averaged weights, if there is one."""
        return self.average.module if self.average else self.model

    @property
    def about_now(self) -> dict:
        """The metadata of the network as it is now."""
        scaler = self.precision.scaler.state_dict()
        state = {"epoch": len(self.history), "history": self.history, "churn": self.churn}
        if self.sparsifier:
            state |= {"sparsities": self.sparsifier.sparsities, "block_sizes": self.sparsifier.block_sizes}
        return self.about | state | ({"scaler": scaler} if scaler else {})

    @property
    def metadata(self) -> dict:
        """Of a checkpoint of now."""
        return self.about_now | ({"fake_quantised": True} if self.folded else {})

    def checkpoint(self) -> Checkpoint:
        """All that `restore` needs."""
        average = self.average.state_dict() if self.average else {}
        average = {name.removeprefix("module."): tensor for name, tensor in average.items() if name != "n_averaged"}
        return Checkpoint(self.model.state_dict(), momenta(self.model, self.optimizer), self.metadata, average)

    def restore(self, saved: Checkpoint) -> None:
        """Puts the state back everywhere. Raises UserError, naming what differs, if it is another network's."""
        self.history, self.churn = saved.metadata["history"], saved.metadata.get("churn", {})
        if self.sparsifier and "sparsities" in saved.metadata:  # else a run from before there were any but equal ones
            self.sparsifier.load_plan(saved.metadata["sparsities"], saved.metadata.get("block_sizes"))
        if self.sparsifier and self.history:
            self.sparsifier.epoch = len(self.history) - 1
        what = "the weights of the run to resume"
        if saved.metadata.get("fake_quantised"):
            self._train_for_8_bits(saved.model)
        else:
            checkpoint.fill(self.model, saved.model, what)
        set_momenta(self.model, self.optimizer, saved.optimizer)
        if self.folded and saved.average:
            self.average = averaged(self.model, self.config.ema)
        if self.average:
            checkpoint.fill(self.average.module, saved.average, "the averaged weights of the run to resume")
            self.average.n_averaged.fill_(len(self.history))  # no more is asked of it than whether it is 0
        if "scaler" in saved.metadata:
            self.precision.scaler.load_state_dict(saved.metadata["scaler"])

    def prepare(self, progress: Progress) -> None:
        """Has built what steps by kernels will call."""
        images = torch.zeros(1, *self.data.preprocessing.shape)
        batch = train_batch_size(self.data, self.loading)
        for part in {len(part) for part in torch.arange(batch).tensor_split(min(self.config.accumulate, batch))}:
            sparse_compute.prepare(self.model, images.expand(part, -1, -1, -1), progress.built)

    def epoch(self, epoch: int, progress: Progress) -> None:
        """Trains and evaluates; a new entry in the history."""
        config, ranks = self.config, self.ranks
        torch.manual_seed(derived_seed(config.seed, "training", epoch, ranks.rank))  # dropout and the like
        if epoch >= config.float_epochs and not self.folded:
            progress.quantises(config.qat)
            self._train_for_8_bits()
        before = self._move_masks(epoch) if not self.folded else {}
        loader = train_batches(
            self.data,
            epoch,
            self.loading,
            seed=config.seed,
            auto_augment=config.auto_augment,
            random_erase=config.random_erase,
        )
        broken: list[str] = []
        inputs, steps = batches(loader, broken.append), len(loader)
        if mix := mixing(len(self.data.classes), config.mixup, config.cutmix):
            inputs = mixed(inputs, mix, config.seed, "mixing", epoch, ranks.rank)

        def rate(batch: int) -> float:
            warmup = min(config.warmup_epochs, config.epochs) * steps
            return learning_rate(epoch * steps + batch, config.epochs * steps, warmup, config.lr)

        def after_step() -> None:
            if config.ema and not self.average:
                self.average = averaged(self.model, config.ema)
            if self.average:
                self.average.update_parameters(self.model)
            progress.advance()

        progress.batches(epoch, steps)
        trained = train_epoch(
            self._parallel,
            inputs,
            self.optimizer,
            rate,
            ranks,
            self.precision,
            label_smoothing=config.label_smoothing,
            accumulate=config.accumulate,
            after_step=after_step,
        )
        masking.follow_weights(self.delivered)
        if self.sparsifier and not self.folded:
            self.sparsifier.share_gradients()
        ranks.broadcast([*self.model.buffers(), *self.delivered.buffers()])  # each saw other images
        network = self.delivered if self.average else self._network
        if isinstance(self.delivered, FakeQuantised):
            network = self.delivered.evaluated() if epoch + 1 < config.epochs else self.quantised
        val = batches(val_batches(self.data, self.loading), broken.append)
        evaluated = evaluate(network, val, ranks, self.precision)
        for sentence in ranks.gather(broken):
            progress.skipped(sentence)
        if self.sparsifier and before:  # only now, as some masks follow the weights in training
            log.note_churn(self.churn, epoch, before, self.sparsifier.masks)
        density = self.sparsifier.density if self.sparsifier and not self.folded else self._density
        self.history.append({"epoch": epoch, "lr": rate(0), **trained, **evaluated, "density": density})

    def _move_masks(self, epoch: int) -> dict[str, Tensor]:
        """The sparsifier's step, alike on all ranks; returns copies of the masks before it, at first with all kept."""
        if not self.sparsifier:
            return {}
        copied = torch.Tensor.clone if epoch else torch.ones_like
        before = {name: copied(mask) for name, mask in self.sparsifier.masks.items()}
        self.sparsifier.step(epoch)
        self.ranks.broadcast(self.sparsifier.masks.values())
        return before

    def _train_for_8_bits(self, state: dict[str, Tensor] | None = None) -> None:
        """Folds the network and goes on with one that rounds to 8 bits, in float32, as the rounding is, and as PyTorch
        runs it by itself. state: of one that has begun already.
        """
        config, ranks = self.config, self.ranks
        if self.sparsifier and not self.history:
            before = self._move_masks(0)  # at once: no epoch comes before
            log.note_churn(self.churn, 0, before, self.sparsifier.masks)
        if self.sparsifier:
            self._density = self.history[-1]["density"] if self.history else self.sparsifier.density
        self.folded = self._fold(self.delivered if self.history else self.model)
        self.precision = Precision(None, config.channels_last, ranks.device)
        example = self.precision.place(torch.zeros(2, *self.data.preprocessing.shape))
        network = FakeQuantised(self.folded, example, self.config.weight_bits)
        if state:
            network.load(state, "the weights of the run to resume")
        self.optimizer = torch.optim.SGD(parameter_groups(network, config.weight_decay), lr=config.lr, momentum=0.9)
        network.keep_zeros(self.optimizer)
        self.model, self.average, self._network = network, None, network
        self._parallel = ranks.parallel(network)

    def _fold(self, network: nn.Module) -> nn.Module:
        return self.sparsifier.fold(network) if self.sparsifier else network

    @cached_property
    def quantised(self) -> nn.Module:
        """The network in 8 bits, after the last epoch."""
        assert isinstance(self.delivered, FakeQuantised)
        return self.delivered.quantised()

    def finished(self) -> tuple[nn.Module, ExportedProgram | None]:
        """The folded network, and the quantised one if there is one, after the last epoch."""
        for network in (self.model, self.delivered):
            if not isinstance(network, FakeQuantised):
                self._fold(network)
        if not isinstance(self.delivered, FakeQuantised) or self.folded is None:
            return self.delivered, None
        self.delivered.write_back(self.folded)
        return self.folded, fake_quantised.program(self.quantised, self.delivered.example)

    def _compute_sparsely(self, way: str) -> None:
        config = self.config
        plain = not (config.amp or config.channels_last or config.compile)
        require(
            plain and self.ranks.device.type == "cpu",
            "sparse_compute is for float32 on a CPU: leave out amp, channels_last, compile and other devices",
        )
        layers = sparse_compute.attach(self.model, way) if self.sparsifier else 0
        require(
            layers > 0,
            "sparse_compute would change nothing: no convolution or linear layer is pruned in blocks",
        )

    @torch.no_grad()
    def _outputs(self, images: Tensor) -> Any:
        try:
            with in_eval_mode(self.model):
                return self.model(images)
        except Exception as error:  # of any kind: the network may be the user's
            size = "x".join(map(str, images.shape[1:]))
            raise UserError(f"the network cannot take images of {size}: {first_line(error)}") from error

    def _require_fit(self) -> None:
        """Refuses a network that cannot take the images, such as one too deep for small ones, or of other classes."""
        data, config = self.data, self.config
        logits = self._outputs(self.precision.place(torch.zeros(1, *data.preprocessing.shape)))
        require(
            isinstance(logits, Tensor),
            f"the network gives a {type(logits).__name__}, and training needs one tensor, a number for each class",
        )
        outputs, classes = list(logits.shape[1:]), len(data.classes)
        require(
            outputs == [classes], f"the network gives {outputs} outputs an image, and the data has {classes} classes"
        )
        images = train_batch_size(data, self.loading)
        if images // min(config.accumulate, images) == 1:
            try:  # batch norm over one pixel needs more
                copy.deepcopy(self.model).train()(self.precision.place(torch.zeros(1, *data.preprocessing.shape)))
            except Exception as error:
                raise UserError(
                    f"the network cannot train on one image alone, as with batch_size = {config.batch_size} and "
                    f"accumulate = {config.accumulate}: take larger batches or fewer parts ({first_line(error)})"
                ) from error


def make_sparsifier(model: nn.Module, config: Config, input_shape: tuple[int, ...] | None = None) -> Sparsifier | None:
    """The run's sparsifier, its masks on the model; None for dense training. input_shape: as for `Sparsifier`."""
    options = config.sparsifier_options()
    return Sparsifier(model, input_shape=input_shape, **options) if options else None
