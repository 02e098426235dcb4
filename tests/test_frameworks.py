"""A refinement in the training loops of Lightning and Hugging Face, saved and resumed there."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from refine import Masked, Replay, RuntimeRefinement
from refine.pruning import importance

pytestmark = pytest.mark.long


def zeros(model):
    return sum(int((p == 0).sum()) for p in model.parameters() if p.dim() > 1)


def data():
    torch.manual_seed(0)
    return TensorDataset(torch.randn(32, 8), torch.randint(3, (32,)))


def test_lightning_goes_on_at_its_sparsity(tmp_path):
    lightning = pytest.importorskip("lightning")

    class Net(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3))
            self.refinement = RuntimeRefinement(
                self, Masked(importance.movement), replay=Replay(steps=0)
            )

        def forward(self, inputs):
            return self.body(inputs)

        def training_step(self, batch, number):
            return F.cross_entropy(self(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), 0.01)

        def on_train_epoch_start(self):
            self.refinement.begin_epoch()

        def on_train_epoch_end(self):
            self.refinement.refinement_cycle(loader, 0.5)

        def on_save_checkpoint(self, checkpoint):
            checkpoint["refinement"] = self.refinement.state_dict()

        def on_load_checkpoint(self, checkpoint):
            self.refinement.load_state_dict(checkpoint["refinement"])

    loader = DataLoader(data(), batch_size=8)

    def trainer(epochs):
        return lightning.Trainer(
            max_epochs=epochs, accelerator="cpu", logger=False, enable_progress_bar=False,
            enable_model_summary=False, default_root_dir=tmp_path,
        )  # fmt: skip

    torch.manual_seed(0)
    first = Net()
    running = trainer(2)
    running.fit(first, loader)
    running.save_checkpoint(tmp_path / "two.ckpt")
    assert first.refinement.prunable_sparsity == 0.75
    again = Net()
    trainer(3).fit(again, loader, ckpt_path=tmp_path / "two.ckpt", weights_only=True)
    assert again.refinement.cycles == 3
    assert again.refinement.prunable_sparsity == 0.875
    assert zeros(again) >= 0.875 * 352
    assert copy.deepcopy(first).refinement.prunable_sparsity == 0.75


def test_a_hugging_face_trainer_goes_on_at_its_sparsity(tmp_path, monkeypatch):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    # The folder tests/datasets is not the library of that name.
    monkeypatch.setattr("transformers.trainer.is_datasets_available", lambda: False)

    class Rows(torch.utils.data.Dataset):
        def __len__(self):
            return 16

        def __getitem__(self, index):
            ids = torch.arange(index, index + 6) % 50
            return {"input_ids": ids, "attention_mask": torch.ones(6).long(), "labels": index % 2}

    class Refine(transformers.TrainerCallback):
        def __init__(self, model):
            self.refinement = RuntimeRefinement(model, replay=Replay(steps=2, buffer_size=8))

        def on_epoch_end(self, args, state, control, train_dataloader, **others):
            self.refinement.refinement_cycle(train_dataloader, 0.5)

        def on_save(self, args, state, control, **others):
            place = f"{args.output_dir}/checkpoint-{state.global_step}/refinement.pt"
            torch.save(self.refinement.state_dict(), place)

    def trained(epochs, resume):
        config = transformers.BertConfig(
            vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
            intermediate_size=32, max_position_embeddings=16,
        )  # fmt: skip
        torch.manual_seed(0)
        model = transformers.BertForSequenceClassification(config)
        callback = Refine(model)
        arguments = transformers.TrainingArguments(
            output_dir=str(tmp_path), num_train_epochs=epochs, save_strategy="epoch",
            per_device_train_batch_size=4, report_to=[], use_cpu=True, disable_tqdm=True,
        )  # fmt: skip
        if resume:
            place = tmp_path / "checkpoint-8" / "refinement.pt"
            callback.refinement.load_state_dict(torch.load(place, weights_only=True))
        trainer = transformers.Trainer(
            model=model, args=arguments, train_dataset=Rows(), callbacks=[callback]
        )
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-8") if resume else None)
        return callback.refinement

    first = trained(2, resume=False)
    assert first.prunable_sparsity == pytest.approx(0.75, abs=0.001)
    again = trained(3, resume=True)
    assert (again.cycles, again.prunable_sparsity) == (3, pytest.approx(0.875, abs=0.001))
    for name, mask in again.masks.items():
        assert not again.masks.weights()[name][~mask].any()
