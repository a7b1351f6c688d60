"""The callbacks inside the real Lightning and the real Trainer of Hugging Face's, where these are installed."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import subp
from subp.common.vision import import_torchvision

EPOCHS = 4


@pytest.fixture(autouse=True)
def torchvision():
    """Both libraries import it; its binary need not fit PyTorch's."""
    import_torchvision()


class Classifier(nn.Module):
    """What either trainer's network is made of: images [B, 3, 4, 4] to 8 classes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        layers = (nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.Flatten())
        self.net = nn.Sequential(*layers, nn.Linear(128, 8))

    def forward(self, x, labels=None):
        logits = self.net(x)
        return logits if labels is None else {"loss": cross_entropy(logits, labels), "logits": logits}


def sparsifier_of(model):
    return subp.Sparsifier(model, n=4, sparsity=0.5, epochs=EPOCHS, start=0, end=3)


def examples():
    torch.manual_seed(1)
    return torch.randn(8, 3, 4, 4), torch.arange(8)


def require_pruned(model, sparsifier, x):
    """Half of the middle layer's blocks are zero, equally many a row, and stay so when folded."""
    expected = model(x).detach()
    folded = sparsifier.fold()
    blocks = folded.net[2].weight.detach().reshape(2, 4, 8, 9).abs().sum((1, 3))  # [O / N, I]
    assert (blocks == 0).sum(1).tolist() == [4, 4]
    torch.testing.assert_close(folded(x), expected)


def test_lightning_prunes_saves_and_resumes(tmp_path):
    lightning = pytest.importorskip("lightning.pytorch", reason="Lightning is not installed: pip install lightning")
    from subp.integrations.lightning import SparsityCallback

    class Module(Classifier, lightning.LightningModule):
        """The classifier with its steps."""

        def training_step(self, batch, index):
            return self(*batch)["loss"]

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    def fitted(epochs, checkpoint=None):
        model = Module()
        sparsifier = sparsifier_of(model)
        silent = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
        trainer = lightning.Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            default_root_dir=tmp_path,
            callbacks=[SparsityCallback(sparsifier)],
            **silent,
        )
        loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*examples()), batch_size=4, num_workers=0)
        trainer.fit(model, loader, ckpt_path=checkpoint)
        return trainer, model, sparsifier

    trainer, model, whole = fitted(EPOCHS)
    assert whole.epoch == EPOCHS - 1 and whole.density == 0.5

    trainer, _, half = fitted(2)
    assert 0.5 < half.density < 1
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    _, resumed, again = fitted(EPOCHS, tmp_path / "half.ckpt")
    assert again.epoch == EPOCHS - 1
    assert all(mask.equal(again.masks[name]) for name, mask in whole.masks.items())
    x, _ = examples()
    require_pruned(resumed.eval(), again, x)
    require_pruned(model.eval(), whole, x)

    with pytest.raises(subp.Error, match=f"max_epochs is {EPOCHS + 1}, and the sparsifier was made for {EPOCHS}"):
        fitted(EPOCHS + 1)


def test_hugging_faces_trainer_prunes(tmp_path):
    transformers = pytest.importorskip(
        "transformers", reason="Transformers is not installed: pip install transformers accelerate"
    )
    pytest.importorskip("accelerate", reason="Accelerate is not installed: pip install transformers accelerate")
    from subp.integrations.transformers import SparsityCallback

    model = Classifier()
    sparsifier = sparsifier_of(model)
    x, labels = examples()
    rows = [{"x": image, "labels": label} for image, label in zip(x, labels, strict=True)]

    def trained(epochs):
        options = {"report_to": [], "save_strategy": "no", "disable_tqdm": True, "use_cpu": True}
        arguments = transformers.TrainingArguments(
            str(tmp_path), num_train_epochs=epochs, per_device_train_batch_size=4, **options
        )
        callbacks = [SparsityCallback(sparsifier)]
        return transformers.Trainer(model, arguments, train_dataset=rows, callbacks=callbacks).train()

    with pytest.raises(subp.Error, match=f"trains for {EPOCHS + 1} epochs, and the sparsifier was made for {EPOCHS}"):
        trained(EPOCHS + 1)
    trained(EPOCHS)
    assert sparsifier.epoch == EPOCHS - 1 and sparsifier.density == 0.5
    require_pruned(model.eval(), sparsifier, x)
